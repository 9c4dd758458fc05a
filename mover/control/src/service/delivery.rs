//! How messages leave: a POST, or a mail. Both are traits, so that tests and other ways need no server.
//!
//! A delivery has [`PATIENCE`], follows no redirect, and never tells anything of the answer but whether it was one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::error::{ControlError, Result};

use super::notification::{Channel, Notice};

/// How long one delivery may take.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Sends a POST.
#[async_trait]
pub trait WebhookDelivery: Send + Sync {
    /// Sends `body` to `url`; anything but a 2xx is an error.
    async fn post(&self, url: &str, body: String) -> Result<()>;
}

/// Sends a mail.
#[async_trait]
pub trait MailDelivery: Send + Sync {
    /// Sends a text.
    async fn send(&self, to: &str, subject: &str, body: String) -> Result<()>;
}

/// The ways of a server; mail only where a mail server is named.
#[derive(Clone)]
pub struct Deliveries {
    /// For webhooks.
    pub webhook: Arc<dyn WebhookDelivery>,
    /// For mail.
    pub mail: Option<Arc<dyn MailDelivery>>,
}

impl Deliveries {
    /// Real webhooks, and mail through `mail` if given.
    ///
    /// # Errors
    /// TLS cannot be set up on this machine.
    pub fn new(mail: Option<Arc<dyn MailDelivery>>) -> Result<Deliveries> {
        Ok(Deliveries { webhook: Arc::new(HttpWebhook::new()?), mail })
    }

    /// Delivers one message.
    ///
    /// # Errors
    /// It was not accepted.
    pub async fn deliver(&self, channel: &Channel, notice: &Notice) -> Result<()> {
        match channel {
            Channel::Webhook { url, body } => {
                let body = body.as_ref().map_or_else(|| crate::database::json(notice), |text| notice.render(text));
                self.webhook.post(url, body).await
            }
            Channel::Mail { to, subject, body } => {
                let Some(mail) = &self.mail else {
                    let reason = "this server has no mail server; name one in its configuration".to_owned();
                    return Err(ControlError::Delivery { target: to.clone(), reason });
                };
                let subject = notice.render(subject.as_deref().unwrap_or("mover: {kind} of {set}: {state}"));
                let default =
                    "{kind} of {set} on {source}: {state} at {at}\n{message}\njob {job}, exceptions {exceptions}\n";
                // A subject is one line.
                let subject = subject.replace(['\r', '\n'], " ");
                mail.send(to, &subject, notice.render(body.as_deref().unwrap_or(default))).await
            }
        }
    }
}

/// Webhooks over HTTP.
pub struct HttpWebhook(reqwest::Client);

impl HttpWebhook {
    /// With the certificates of this machine.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> Result<HttpWebhook> {
        HttpWebhook::with_patience(PATIENCE)
    }

    /// The same with another time than [`PATIENCE`], for tests.
    pub(super) fn with_patience(patience: Duration) -> Result<HttpWebhook> {
        let client = reqwest::Client::builder().timeout(patience).redirect(reqwest::redirect::Policy::none()).build();
        let reason = |error: reqwest::Error| failed("webhooks", &error);
        Ok(HttpWebhook(client.map_err(reason)?))
    }
}

fn failed(target: &str, error: &dyn std::error::Error) -> ControlError {
    // The innermost cause says what happened; the address can hold a secret, so errors never repeat it.
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    ControlError::Delivery { target: target.to_owned(), reason: cause.to_string() }
}

#[async_trait]
impl WebhookDelivery for HttpWebhook {
    async fn post(&self, url: &str, body: String) -> Result<()> {
        let host = url.split('/').nth(2).unwrap_or("webhook").rsplit('@').next().unwrap_or("webhook").to_owned();
        let request = self.0.post(url).header("content-type", "application/json").body(body);
        let answer = request.send().await.map_err(|error| failed(&host, &error.without_url()))?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(ControlError::Delivery { target: host, reason: format!("it answered {}", answer.status()) })
    }
}

/// Mail by SMTP.
pub struct SmtpMail {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl SmtpMail {
    /// By the server at `url` (`smtps://user:password@host`, `smtp://host?tls=required`), in the name of `from`.
    ///
    /// # Errors
    /// The address of the server or of the sender is none.
    pub fn new(url: &str, from: &str) -> Result<SmtpMail> {
        let sender = from.parse().map_err(|error| ControlError::Invalid(format!("mail sender {from:?}: {error}")))?;
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url);
        let builder = builder.map_err(|error| ControlError::Invalid(format!("mail server: {error}")))?;
        Ok(SmtpMail { transport: builder.timeout(Some(PATIENCE)).build(), from: sender })
    }
}

#[async_trait]
impl MailDelivery for SmtpMail {
    async fn send(&self, to: &str, subject: &str, body: String) -> Result<()> {
        let wrong = |reason: String| ControlError::Delivery { target: to.to_owned(), reason };
        let mailbox: Mailbox = to.parse().map_err(|error| wrong(format!("no mail address: {error}")))?;
        let message = Message::builder().from(self.from.clone()).to(mailbox).subject(subject).body(body);
        let message = message.map_err(|error| wrong(error.to_string()))?;
        self.transport.send(message).await.map_err(|error| failed(to, &error))?;
        Ok(())
    }
}
