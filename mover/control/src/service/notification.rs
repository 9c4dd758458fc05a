//! Who is told what of which state: rules of a policy, and the outbox that they fill.
//!
//! Messages are rows written in the transaction of the state change itself, so none is lost and none is of a change that
//! never was. Delivery is somebody else's ([`super::notifier`]) and can fail as long as it likes: no job waits for it.

use serde::{Deserialize, Serialize};

use crate::arguments;
use crate::database::{Transaction, json};
use crate::error::Result;
use crate::ids::{JobId, PolicyId, RecordId, UnixMillis};
use crate::job::{Job, JobState};

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Channel {
    /// A POST of JSON.
    Webhook {
        /// http or https.
        url: String,
        /// The body; without it all fields as JSON.
        #[serde(default)]
        body: Option<String>,
    },
    /// A mail.
    Mail {
        /// To whom.
        to: String,
        /// Its subject.
        #[serde(default)]
        subject: Option<String>,
        /// Its text.
        #[serde(default)]
        body: Option<String>,
    },
}

/// Whom to tell of which states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyRule {
    /// Of these.
    pub states: Vec<JobState>,
    /// This one.
    pub to: Channel,
}

/// What a message is about: the fields of the templates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Notice {
    /// The job.
    pub job: JobId,
    /// Its kind.
    pub kind: String,
    /// Its new state.
    pub state: JobState,
    /// Its policy.
    pub policy: Option<PolicyId>,
    /// Its set.
    pub set: String,
    /// Its source.
    pub source: String,
    /// Its repository.
    pub repository: String,
    /// For people.
    pub message: Option<String>,
    /// What it made.
    pub recovery_point: Option<String>,
    /// Files with exceptions.
    pub exceptions: u64,
    /// When.
    pub at: UnixMillis,
}

impl Channel {
    /// Who gets it in the end: what is slow or dead holds up nothing but its own messages.
    pub(crate) fn target(&self) -> String {
        match self {
            // Scheme, host and port; the path may be a secret.
            Channel::Webhook { url, .. } => url.split('/').take(3).collect::<Vec<_>>().join("/"),
            Channel::Mail { .. } => "mail".to_owned(),
        }
    }

    /// Without what may be a secret: the path of an address, and what is written in a template.
    pub(crate) fn redacted(self) -> Channel {
        match &self {
            Channel::Webhook { url, body } => {
                let scheme = url.split("://").next().unwrap_or_default();
                let host = url.split('/').nth(2).and_then(|place| place.rsplit('@').next()).unwrap_or_default();
                let body = body.as_ref().map(|_| REDACTED.to_owned());
                Channel::Webhook { url: format!("{scheme}://{host}/{REDACTED}"), body }
            }
            Channel::Mail { .. } => self,
        }
    }
}

/// Stands for what is shown to admins only.
pub(crate) const REDACTED: &str = "…";

impl NotifyRule {
    /// For eyes below admin.
    pub(crate) fn redacted(self) -> NotifyRule {
        NotifyRule { to: self.to.redacted(), ..self }
    }

    /// Why this rule can never work.
    pub fn problem(&self) -> Option<String> {
        if self.states.is_empty() {
            return Some("a rule without states tells nobody anything".to_owned());
        }
        match &self.to {
            Channel::Webhook { url, .. } if !url.starts_with("https://") && !url.starts_with("http://") => {
                Some(format!("{url:?} is no http or https address"))
            }
            Channel::Mail { to, .. } if to.parse::<lettre::message::Mailbox>().is_err() => {
                Some(format!("{to:?} is no mail address"))
            }
            _ => None,
        }
    }
}

impl Notice {
    fn of(job: &Job, now: UnixMillis) -> Notice {
        Notice {
            job: job.id.clone(),
            kind: crate::database::word(&job.kind),
            state: job.state,
            policy: job.policy.clone(),
            set: job.set.clone(),
            source: job.source.clone(),
            repository: job.repository.clone(),
            message: job.message.clone(),
            recovery_point: job.recovery_point.clone(),
            exceptions: job.outcome.as_ref().map_or(0, |outcome| outcome.exceptions_total),
            at: now,
        }
    }

    /// Puts the fields in the places `{job}`, `{state}`, … of a template; other braces stay as they are.
    pub fn render(&self, template: &str) -> String {
        let fields = [
            ("{job}", self.job.to_string()),
            ("{kind}", self.kind.clone()),
            ("{state}", self.state.to_string()),
            ("{policy}", self.policy.as_ref().map_or_else(String::new, ToString::to_string)),
            ("{set}", self.set.clone()),
            ("{source}", self.source.clone()),
            ("{repository}", self.repository.clone()),
            ("{message}", self.message.clone().unwrap_or_default()),
            ("{recovery_point}", self.recovery_point.clone().unwrap_or_default()),
            ("{exceptions}", self.exceptions.to_string()),
            ("{at}", self.at.to_string()),
        ];
        // One pass: what a field says is never taken for a place.
        let mut text = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(brace) = rest.find('{') {
            text.push_str(&rest[..brace]);
            rest = &rest[brace..];
            match fields.iter().find(|(name, _)| rest.starts_with(name)) {
                Some((name, value)) => {
                    text.push_str(value);
                    rest = &rest[name.len()..];
                }
                None => {
                    text.push('{');
                    rest = &rest[1..];
                }
            }
        }
        text.push_str(rest);
        text
    }
}

/// Messages of a job that has just entered its state.
pub(crate) async fn enqueue(tx: &mut Transaction, job: &Job, now: UnixMillis) -> Result<()> {
    for rule in job.order.notify.iter().filter(|rule| rule.states.contains(&job.state)) {
        tx.execute(
            "INSERT INTO outbox (id, created_at, job, channel, payload, attempt, next_at, ended, target)
             VALUES ($1, $2, $3, $4, $5, 0, $2, 0, $6)",
            arguments![
                &RecordId::new(now),
                now,
                &job.id,
                json(&rule.to),
                json(&Notice::of(job, now)),
                rule.to.target()
            ],
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_fields_are_filled_once_and_other_braces_stay() {
        let notice = Notice {
            job: "01J".into(),
            kind: "backup".to_owned(),
            state: JobState::CompletedWithErrors,
            policy: None,
            set: "{state}".to_owned(),
            source: "nas".to_owned(),
            repository: "r".to_owned(),
            message: None,
            recovery_point: None,
            exceptions: 3,
            at: UnixMillis(0),
        };
        let text = notice.render(r#"{"text": "{set} {state}: {exceptions} {unknown} {policy}{"#);
        assert_eq!(text, r#"{"text": "{state} completed with errors: 3 {unknown} {"#);
    }
}
