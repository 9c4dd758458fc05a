//! `mover key`: the keys that open a repository, one slot each.

use std::time::Duration;

use futures_lite::future::block_on;
use mover_repository::Repository;
use mover_repository::ids::ObjectId;
use mover_repository::key_admin::{KeyInfo, add_key, calibrated_stretching, list_keys, remove_key};
use mover_repository::keys::{Credential, Stretching};
use mover_repository::log::Role;
use mover_repository::repository::KeyRights;
use serde_json::json;
use zeroize::Zeroizing;

use super::args::{KeyAddArgs, KeyArgs, KeyCommand, NewKeyArgs};
use super::error::{CliError, Result};
use super::exit::Exit;
use super::init::NewKeyFile;
use super::repository::{self, short};
use super::table::Table;
use super::text::{escape, local_time, rfc3339};
use super::{Session, secret};
use crate::config::CredentialSource;

/// How long a removal waits for other admins.
const OTHERS_WAIT: Duration = Duration::from_secs(30);
/// What stretching a password may cost who types it.
const STRETCHING_TIME: Duration = Duration::from_millis(500);

/// Runs one of the commands.
pub fn run(session: &Session, args: &KeyArgs) -> Result<Exit> {
    let opened = repository::open(session)?;
    match &args.what {
        KeyCommand::List => list(session, &opened),
        KeyCommand::Add(args) => {
            repository::require_admin(&opened)?;
            let slot = add(session, &opened, &args.new, rights(args))?;
            session.output.object("summary", json!({ "added": slot.to_string(), "exit_code": 0 }))?;
            Ok(Exit::Done)
        }
        KeyCommand::Change(args) => change(session, &opened, args),
        KeyCommand::Remove(args) => {
            repository::require_admin(&opened)?;
            let slot = find(&opened, &args.key)?;
            remove(session, &opened, slot)?;
            session.output.object("summary", json!({ "removed": slot.to_string(), "exit_code": 0 }))?;
            Ok(Exit::Done)
        }
    }
}

fn rights(args: &KeyAddArgs) -> KeyRights {
    if args.put_only { KeyRights::PutOnly } else { KeyRights::Full }
}

fn list(session: &Session, opened: &Repository) -> Result<Exit> {
    let output = &session.output;
    let mut table = Table::new(&["", "key", "opened by", "may", "added", "label"]);
    let keys = block_on(list_keys(opened))?;
    for key in &keys {
        output.object(
            "key",
            json!({
                "id": key.slot.to_string(),
                "opened_by": opened_by(key),
                "rights": key.rights.map(rights_name),
                "added": key.added.map(rfc3339),
                "label": key.label,
                "own": key.is_own,
            }),
        )?;
        table.row(vec![
            if key.is_own { "*" } else { "" }.to_owned(),
            short(&key.slot),
            opened_by(key).to_owned(),
            key.rights.map_or("not recorded: the first key, or forged", rights_name).to_owned(),
            key.added.map_or_else(|| "-".to_owned(), local_time),
            escape(key.label.as_bytes()),
        ]);
    }
    if !output.json {
        table.lines().iter().try_for_each(|line| output.line(line))?;
        output.note("* is the key that you use now");
    }
    output.object("summary", json!({ "keys": keys.len(), "exit_code": 0 }))?;
    Ok(Exit::Done)
}

fn opened_by(key: &KeyInfo) -> &'static str {
    match key.is_of_key_file {
        Some(true) => "key file",
        Some(false) => "password",
        None => "damaged",
    }
}

fn rights_name(rights: KeyRights) -> &'static str {
    match rights {
        KeyRights::Full => "everything",
        KeyRights::PutOnly => "only add",
    }
}

/// Adds a key. A key file or a recovery key is of use only once its slot is there.
fn add(session: &Session, opened: &Repository, new: &NewKeyArgs, rights: KeyRights) -> Result<ObjectId> {
    let who = repository::open_record(Role::Admin, "")?;
    let label = new.label.clone().unwrap_or_else(repository::host);
    let store = |credential: &Credential, stretching: Stretching| {
        block_on(add_key(opened, &who, credential, rights, &label, stretching))
    };
    let output = &session.output;
    let slot = if let Some(path) = &new.new_key_file {
        let file = NewKeyFile::create(path)?;
        let slot = store(&file.credential, Stretching::default())?;
        file.keep();
        slot
    } else if new.recovery {
        let text = recovery_key()?;
        let slot = store(&Credential::password(text.as_str())?, Stretching::default())?;
        output.say("the recovery key, shown once: write it down, and type it as a password, with its dashes")?;
        output.say(&text)?;
        output.object("recovery_key", json!({ "key": text.as_str() }))?;
        slot
    } else {
        let source = new.new_password_file.clone().map_or(CredentialSource::Prompt, CredentialSource::PasswordFile);
        let credential = secret::read(&source, true, output)?;
        store(&credential, calibrated_stretching(STRETCHING_TIME))?
    };
    output.say(&format!(
        "key {} opens the repository now; it may do {}",
        short(&slot),
        match rights {
            KeyRights::Full => "everything",
            KeyRights::PutOnly => "backups, and nothing else",
        }
    ))?;
    Ok(slot)
}

/// 256 random bits in groups that can be read aloud.
fn recovery_key() -> Result<Zeroizing<String>> {
    let digits = secret::random_hex()?;
    let mut text = Zeroizing::new(String::with_capacity(digits.len() + digits.len() / 4));
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 4 == 0 {
            text.push('-');
        }
        text.push(digit);
    }
    Ok(text)
}

fn change(session: &Session, opened: &Repository, new: &NewKeyArgs) -> Result<Exit> {
    repository::require_admin(opened)?;
    let Some(old) = opened.slot() else {
        return Err(CliError::failed("the key in use has no slot", "add a key and remove the old one"));
    };
    let slot = add(session, opened, new, KeyRights::Full)?;
    remove(session, opened, old)?;
    let fields = json!({ "added": slot.to_string(), "removed": old.to_string(), "exit_code": 0 });
    session.output.object("summary", fields)?;
    Ok(Exit::Done)
}

fn remove(session: &Session, opened: &Repository, slot: ObjectId) -> Result<()> {
    block_on(remove_key(opened, &repository::open_record(Role::Admin, "")?, slot, OTHERS_WAIT))?;
    session.output.say(&format!("key {} is removed", short(&slot)))?;
    session.output.note(
        "who had that key may have kept a copy of it, or of the secrets under it: what was stored so far stays readable to \
         them where they can still reach the repository; take their access to the place away too",
    );
    Ok(())
}

fn find(opened: &Repository, spec: &str) -> Result<ObjectId> {
    let keys = block_on(list_keys(opened))?;
    let matching: Vec<ObjectId> =
        keys.iter().map(|key| key.slot).filter(|slot| !spec.is_empty() && slot.to_string().starts_with(spec)).collect();
    match matching[..] {
        [slot] => Ok(slot),
        [] => Err(CliError::usage(format!("no key begins with '{spec}'"), "`mover key list` shows them")),
        _ => Err(CliError::usage(format!("several keys begin with '{spec}'"), "give more of the id")),
    }
}
