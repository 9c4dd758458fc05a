//! Messages through real parts: an HTTP listener, a TLS one that nobody trusts, an SMTP server of another author.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::ManualClock;
use crate::database::Database;
use crate::job::{Job, JobState, Outcome, store};
use crate::lease::report::{Ending, Held, finish};
use crate::lease::take::{Offer, take};
use crate::testing::{NOON, agent, backup, each_database, skipped, submit};

use super::delivery::{Deliveries, SmtpMail};
use super::notification::{Channel, NotifyRule};
use super::{Context, notifier};

const HOUR: Duration = Duration::from_secs(3600);

/// A listener on a port of its own that answers each connection with the next of `answers`, and keeps what it was sent.
/// An empty answer is a connection that is held open and never answered.
struct Listener {
    url: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn start(answers: &'static [&'static str]) -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/hook?secret=s3cret", listener.local_addr().expect("an address"));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept() else { return };
                log.lock().push(request(&mut stream));
                let _ = stream.write_all(answer.as_bytes());
                if answer.is_empty() {
                    silent.push(stream);
                }
            }
            // Until the process ends: what was not answered stays open.
            std::thread::park();
        });
        Listener { url, heard }
    }
}

/// A request with its body, by its content length.
fn request(stream: &mut TcpStream) -> String {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return text,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
        }
    }
}

/// A job that has ended and tells it `to`.
async fn ended(database: &Database, to: Channel) {
    agent(database, "a", &[], NOON).await;
    let mut new = backup("set", NOON);
    new.order.notify = vec![NotifyRule { states: vec![JobState::Completed], to }];
    submit(database, new, NOON).await;
    let offer = Offer { agent: "a".into(), free: 1, resident: Vec::new() };
    let lease = take(database, &[offer], NOON).await.expect("take").remove(0);
    let held = Held { job: lease.job.id, fence: lease.fence };
    finish(database, &lease.agent, &held, &Ending::Completed, Outcome::default(), NOON).await.expect("finish");
}

async fn only_job(database: &Database) -> Job {
    store::list(database, &store::JobFilter::default(), 2).await.expect("list").remove(0)
}

/// What the outbox says of its one message: attempts, whether it is over, the last error.
async fn message(database: &Database) -> (i64, bool, Option<String>) {
    let row = database.read(async |tx| tx.one("SELECT * FROM outbox", &[]).await).await.expect("a message");
    (row.number("attempt").expect("n"), row.number("ended").expect("n") != 0, row.maybe_text("error").expect("text"))
}

fn webhook(url: &str, body: Option<&str>) -> Channel {
    Channel::Webhook { url: url.to_owned(), body: body.map(str::to_owned) }
}

const OK: &str = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const ELSEWHERE: &str =
    "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[test]
fn webhook_that_answers_500_or_elsewhere_is_tried_again_until_it_accepts() {
    each_database(async |database| {
        let hook = Listener::start(&[BROKEN, ELSEWHERE, OK]);
        ended(&database, webhook(&hook.url, Some(r#"{"text":"{set} is {state}"}"#))).await;
        let clock = ManualClock::at(NOON);
        let context = Context::new(database.clone(), clock.clone());
        let deliveries = Deliveries::new(None, true).expect("TLS");
        for (attempt, accepted, error) in [(1, 0, Some("500")), (2, 0, Some("302")), (3, 1, None)] {
            assert_eq!(notifier::deliver_due(&context, &deliveries).await.expect("deliver"), accepted);
            assert_eq!(notifier::deliver_due(&context, &deliveries).await.expect("deliver"), 0, "not before its pause");
            let (attempts, is_over, last) = message(&database).await;
            assert_eq!((attempts, is_over), (attempt, error.is_none()));
            assert_eq!(last.is_some(), error.is_some());
            assert!(last.iter().all(|last| last.contains(error.unwrap_or_default()) && !last.contains("s3cret")));
            clock.advance(HOUR);
        }
        let heard = hook.heard.lock().clone();
        assert_eq!(heard.len(), 3);
        assert!(heard.iter().all(|request| request.starts_with("POST /hook?secret=s3cret HTTP/1.1")));
        assert!(heard[2].ends_with(r#"{"text":"set is completed"}"#), "{}", heard[2]);
        assert_eq!(only_job(&database).await.state, JobState::Completed);
    });
}

#[test]
fn webhook_that_is_silent_or_shows_a_certificate_that_nobody_trusts_is_an_error_in_time() {
    each_database(async |database| {
        let (silent, plain) = (Listener::start(&["", ""]), Listener::start(&[OK, OK]));
        let clock = ManualClock::at(NOON);
        let context = Context::new(database.clone(), clock.clone());
        let mut deliveries = Deliveries::new(None, true).expect("TLS");
        deliveries.webhook =
            Arc::new(super::delivery::HttpWebhook::with_patience(Duration::from_millis(200), true).expect("TLS"));
        ended(&database, webhook(&silent.url, None)).await;
        assert_eq!(notifier::deliver_due(&context, &deliveries).await.expect("deliver"), 0);
        let (attempts, is_over, error) = message(&database).await;
        assert_eq!((attempts, is_over), (1, false));
        assert!(error.expect("an error").contains("127.0.0.1"));
        // What answers in plain text where TLS was asked for is refused: nothing is sent in the clear instead.
        let sql = "UPDATE outbox SET channel = $1";
        let secure = plain.url.replace("http://", "https://");
        let channel = crate::database::json(&webhook(&secure, None));
        database.change(async |tx| tx.execute(sql, crate::arguments![&channel]).await).await.expect("another");
        clock.advance(HOUR);
        assert_eq!(notifier::deliver_due(&context, &deliveries).await.expect("deliver"), 0);
        let (attempts, is_over, error) = message(&database).await;
        assert_eq!((attempts, is_over, error.is_some()), (2, false, true));
        assert!(plain.heard.lock().iter().all(|heard| !heard.contains("POST")), "nothing went in the clear");
        assert_eq!(only_job(&database).await.state, JobState::Completed);
    });
}

/// An SMTP server of Python (aiosmtpd), which prints what it accepts.
struct Smtp {
    child: Child,
    port: u16,
}

impl Smtp {
    fn start() -> Option<Smtp> {
        let python = std::env::var("MOVER_TEST_SMTP_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".to_owned());
        let has = Command::new(&python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
        if !has.is_ok_and(|status| status.success()) {
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let mut command = Command::new(python);
        command.args(["-u", "-m", "aiosmtpd", "-n", "-l", &format!("127.0.0.1:{port}")]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("aiosmtpd");
        let smtp = Smtp { child, port };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(smtp)
    }

    /// Ends it: everything that it accepted.
    fn accepted(mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
        text
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn mail_goes_through_a_real_server_and_waits_while_there_is_none() {
    each_database(async |database| {
        let Some(smtp) = Smtp::start() else {
            skipped("mail_goes_through_a_real_server_and_waits_while_there_is_none", "needs python3-aiosmtpd");
            return;
        };
        let subject = Some("{kind} of {set}\nBcc: evil@example.org".to_owned());
        ended(&database, Channel::Mail { to: "ops@example.org".to_owned(), subject, body: None }).await;
        let clock = ManualClock::at(NOON);
        let context = Context::new(database.clone(), clock.clone());
        let by = |port: u16| {
            let mail = SmtpMail::new(&format!("smtp://127.0.0.1:{port}"), "mover <mover@example.org>");
            Deliveries::new(Some(Arc::new(mail.expect("a mail server"))), true).expect("TLS")
        };
        // Nobody listens on the first port.
        assert_eq!(notifier::deliver_due(&context, &by(1)).await.expect("deliver"), 0);
        assert_eq!(
            notifier::deliver_due(&context, &Deliveries::new(None, true).expect("TLS")).await.expect("deliver"),
            0
        );
        clock.advance(HOUR);
        assert_eq!(notifier::deliver_due(&context, &by(smtp.port)).await.expect("deliver"), 1);
        assert!(message(&database).await.1);
        let text = smtp.accepted();
        assert!(text.contains("Subject: backup of set Bcc: evil@example.org"), "one line: {text}");
        assert!(text.contains("To: ops@example.org") && text.contains("From: mover <mover@example.org>"), "{text}");
        assert!(text.contains("backup of set on source of set: completed at"), "{text}");
        assert_eq!(text.matches("MESSAGE FOLLOWS").count(), 1);
        assert_eq!(only_job(&database).await.state, JobState::Completed);
    });
}
