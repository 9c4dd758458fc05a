//! How messages leave: a POST, or a mail. Both are traits, so that tests and other ways need no server.
//!
//! A delivery has [`PATIENCE`], follows no redirect, and never tells anything of the answer but whether it was one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

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
    /// Real webhooks, and mail through `mail` if given. Only where `to_loopback` says so do webhooks reach this machine.
    ///
    /// # Errors
    /// TLS cannot be set up on this machine.
    pub fn new(mail: Option<Arc<dyn MailDelivery>>, to_loopback: bool) -> Result<Deliveries> {
        Ok(Deliveries { webhook: Arc::new(HttpWebhook::new(to_loopback)?), mail })
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
///
/// Who writes a policy names the address, and this machine reaches more than its author: the addresses of its own
/// services, and of the metadata of its cloud. Link-local addresses are never reached, loopback only where a setting says
/// so; judged after the name was resolved, so no name leads around it.
pub struct HttpWebhook {
    client: reqwest::Client,
    to_loopback: bool,
}

/// Resolves names, but to addresses that a webhook may reach.
struct Guarded {
    to_loopback: bool,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let to_loopback = self.to_loopback;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|place| may_reach(place.ip(), to_loopback)).collect();
            if allowed.is_empty() {
                return Err(FORBIDDEN.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

const FORBIDDEN: &str = "webhooks do not reach link-local addresses, and this machine only with --hooks-to-loopback";

/// Whether a webhook may go there.
fn may_reach(address: IpAddr, to_loopback: bool) -> bool {
    match address.to_canonical() {
        // Unspecified is this machine too.
        address if address.is_loopback() || address.is_unspecified() => to_loopback,
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

impl HttpWebhook {
    /// With the certificates of this machine.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(to_loopback: bool) -> Result<HttpWebhook> {
        HttpWebhook::with_patience(PATIENCE, to_loopback)
    }

    /// The same with another time than [`PATIENCE`], for tests.
    pub(super) fn with_patience(patience: Duration, to_loopback: bool) -> Result<HttpWebhook> {
        let client = reqwest::Client::builder()
            .timeout(patience)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Guarded { to_loopback }))
            .build();
        let client = client.map_err(|error| failed("webhooks", &error))?;
        Ok(HttpWebhook { client, to_loopback })
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
        // An address that is written as a number is resolved by nobody.
        let literal = reqwest::Url::parse(url)
            .ok()
            .and_then(|url| url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok()));
        if literal.is_some_and(|address| !may_reach(address, self.to_loopback)) {
            return Err(ControlError::Delivery { target: host, reason: FORBIDDEN.to_owned() });
        }
        let request = self.client.post(url).header("content-type", "application/json").body(body);
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
