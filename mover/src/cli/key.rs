//! `mover key`: the keys that open a repository, one slot each.

use std::time::Duration;

use futures_lite::future::block_on;
use mover_repository::Repository;
use mover_repository::ids::ObjectId;
use mover_repository::key_admin::{KeyInfo, add_key, calibrated_stretching, list_keys, remove_key};
use mover_repository::key_text::{PrivateKey, recovery_key};
use mover_repository::keys::{Credential, SlotKind, Stretching};
use mover_repository::log::Role;
use mover_repository::repository::KeyRights;
use mover_repository::rotation::rotate_keys;
use serde_json::json;

use super::args::{KeyAddArgs, KeyArgs, KeyCommand, KeyGenerateArgs, NewKeyArgs};
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
    match &args.what {
        KeyCommand::Generate(args) => generate(session, args),
        KeyCommand::List => list(session, &repository::open(session)?),
        KeyCommand::Rotate => rotate(session, &repository::open_as_admin(session)?),
        KeyCommand::Add(args) => {
            let opened = repository::open_as_admin(session)?;
            let slot = add(session, &opened, &args.new, rights(args))?;
            session.output.object("summary", json!({ "added": slot.to_string(), "exit_code": 0 }))?;
            Ok(Exit::Done)
        }
        KeyCommand::Change(args) => change(session, &repository::open_as_admin(session)?, args),
        KeyCommand::Remove(args) => {
            let opened = repository::open_as_admin(session)?;
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
            key.rights.map_or("nobody says: damaged, or forged", rights_name).to_owned(),
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
    match key.opened_by {
        Some(SlotKind::KeyFile) => "key file",
        Some(SlotKind::Password) => "password",
        Some(SlotKind::PublicKey) => "private key",
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
    } else if let Some(path) = &new.public_key {
        store(&Credential::PublicKey(secret::read_public_key(path)?), Stretching::default())?
    } else if new.recovery {
        let text = recovery_key();
        let slot = store(&Credential::password(text.as_str())?, Stretching::default())?;
        output.say(
            "the recovery key, shown once: write it down, all of it; it is typed as a password, and its last eight digits \
             tell a typing error from a wrong key",
        )?;
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

/// Makes a key pair. The private key is of use wherever its public one was added.
fn generate(session: &Session, args: &KeyGenerateArgs) -> Result<Exit> {
    let private = PrivateKey::generate();
    let public = private.public().to_string();
    let public_path = secret::create_key_pair(&args.file, &private)?;
    let output = &session.output;
    output.say(&format!("the private key is in {}: keep it safe", args.file.display()))?;
    output.say(&format!("the public one is in {}, and may be given to anybody:", public_path.display()))?;
    output.say(&public)?;
    output.note("`mover key add --public-key` lets it open a repository, then `--key-file` with the private key does");
    output.object("summary", json!({ "public_key": public, "exit_code": 0 }))?;
    Ok(Exit::Done)
}

fn rotate(session: &Session, opened: &Repository) -> Result<Exit> {
    let rotated = block_on(rotate_keys(opened, &repository::open_record(Role::Admin, "")?, OTHERS_WAIT))?;
    let output = &session.output;
    output.say(&format!(
        "key generation {} is in force: what is written from now on is sealed under it",
        rotated.generation
    ))?;
    let name = |key: &KeyInfo| {
        let label = if key.label.is_empty() { String::new() } else { format!(" {}", escape(key.label.as_bytes())) };
        format!("{} ({}){label}", short(&key.slot), opened_by(key))
    };
    for key in &rotated.carried {
        output.say(&format!("given to {}, which may do {}", name(key), key.rights.map_or("nothing", rights_name)))?;
    }
    for key in &rotated.left_out {
        output.warn(&format!("not given to {}: it is damaged, or no admin made it", name(key)));
    }
    output.note(
        "who held an older key and can still read the place can read what was stored before, until `mover repair rekey` and \
         then `mover prune` have stored it anew and deleted it; points, paths and times in older log records stay readable \
         to them, and so does for ever what they have copied. Remove a key that is not trusted before you rotate: who is \
         in the list above has the new keys. Runs that began before go on under the older ones",
    );
    output.note("keep a new copy of `keys/` elsewhere: an older one does not open what is written from now on");
    let ids = |keys: &[KeyInfo]| keys.iter().map(|key| key.slot.to_string()).collect::<Vec<_>>();
    let fields = json!({
        "generation": rotated.generation,
        "given_to": ids(&rotated.carried),
        "left_out": ids(&rotated.left_out),
        "exit_code": 0,
    });
    output.object("summary", fields)?;
    Ok(Exit::Done)
}

fn change(session: &Session, opened: &Repository, new: &NewKeyArgs) -> Result<Exit> {
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
        "who had that key may have kept a copy of it, or of the secrets under it: with these they read what is stored, and \
         write, as long as they can reach the place. Take their access away; `mover key rotate` seals what comes from now \
         on under new secrets, `mover repair rekey` what is there. What they have copied stays readable to them",
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
