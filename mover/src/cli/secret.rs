//! Passwords and key files: read, never from the argument list, never printed, wiped when dropped.
//!
//! Everything that holds a secret here is `Zeroizing`. The prompt talks to the terminal itself, not to
//! standard input, so that `--stdin` stays usable.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mover_repository::key_text::{PrivateKey, PublicKey};
use mover_repository::keys::{Credential, KEY_FILE_BYTES_MAX};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::error::{CliError, Result};
use super::exit::Exit;
use super::output::Output;
use crate::config::CredentialSource;

/// Longest password in bytes; a password file may be as long as a key file.
const PASSWORD_BYTES_MAX: usize = 4096;
/// Random bytes in a new key file.
const KEY_BYTES: usize = 32;

/// Reads the secret that `source` names; `twice` asks a person to type a password a second time.
pub fn read(source: &CredentialSource, twice: bool, output: &Output) -> Result<Credential> {
    match source {
        CredentialSource::EnvironmentPassword => from_variable("MOVER_PASSWORD"),
        CredentialSource::PasswordFile(path) => {
            let content = read_file(path, "password file", output)?;
            let line_end = content.iter().position(|byte| *byte == b'\n').unwrap_or(content.len());
            let line = content[..line_end].strip_suffix(b"\r").unwrap_or(&content[..line_end]);
            let place = format!("password file {}", path.display());
            credential(password(Zeroizing::new(line.to_vec()), &place)?)
        }
        CredentialSource::KeyFile(path) => key_credential(read_file(path, "key file", output)?),
        CredentialSource::Prompt => credential(prompt("password: ", twice, PROMPT_HELP)?),
    }
}

/// Takes a password from a variable of the environment.
pub fn from_variable(name: &str) -> Result<Credential> {
    let value = Zeroizing::new(std::env::var_os(name).unwrap_or_default().into_vec());
    credential(password(value, name)?)
}

/// Asks for a password; `help` says how else it can be given, where there is nobody to ask.
pub fn ask_for(question: &str, help: &str) -> Result<Credential> {
    credential(prompt(question, false, help)?)
}

/// A password, or a recovery key that was typed as one.
fn credential(mut text: Zeroizing<String>) -> Result<Credential> {
    Ok(Credential::password(std::mem::take(&mut *text))?)
}

/// Reads a file with a public key.
pub fn read_public_key(path: &Path) -> Result<PublicKey> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read public key {}: {error}", path.display());
        CliError::usage(message, "`mover key generate` makes one")
    })?;
    Ok(text.parse()?)
}

/// Makes the files of a key pair: the private key, mode 0600, and beside it the public one, whose path is given.
/// Neither may exist.
pub fn create_key_pair(path: &Path, private: &PrivateKey) -> Result<PathBuf> {
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    create_file(&public_path, 0o644, format!("{}\n", private.public()).as_bytes())?;
    if let Err(error) = create_file(path, 0o600, private.to_text().as_bytes()) {
        let _ = std::fs::remove_file(&public_path);
        return Err(error);
    }
    Ok(public_path)
}

fn create_file(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let cannot = |error: std::io::Error| CliError::system("create key file", path.display(), error);
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path).map_err(cannot)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(cannot)
}

/// The credential of a key file's content.
pub fn key_credential(mut content: Zeroizing<Vec<u8>>) -> Result<Credential> {
    Ok(Credential::key_file(std::mem::take(&mut *content))?)
}

fn password(bytes: Zeroizing<Vec<u8>>, place: &str) -> Result<Zeroizing<String>> {
    if bytes.len() > PASSWORD_BYTES_MAX {
        return Err(CliError::usage(format!("the password in {place} is longer than 4KiB"), "use a key file"));
    }
    if bytes.is_empty() {
        return Err(CliError::usage(format!("the password in {place} is empty"), "put the password on its first line"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        CliError::usage(format!("the password in {place} is not UTF-8 text"), "use a key file for random bytes")
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn read_file(path: &Path, what: &str, output: &Output) -> Result<Zeroizing<Vec<u8>>> {
    let cannot = |error: &dyn std::fmt::Display| {
        CliError::usage(format!("cannot read {what} {}: {error}", path.display()), "check its path and its permissions")
    };
    let file = File::open(path).map_err(|error| cannot(&error))?;
    let metadata = file.metadata().map_err(|error| cannot(&error))?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        output.note(&format!("{what} {} can be read by others: chmod 600 it", path.display()));
    }
    // one allocation, so that no unwiped copy is left by growth
    let mut content = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX + 1));
    file.take(KEY_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut content).map_err(|error| cannot(&error))?;
    if content.len() > KEY_FILE_BYTES_MAX {
        return Err(cannot(&"it is larger than 64KiB"));
    }
    Ok(content)
}

/// Makes a key file of random bytes, mode 0600; it must not exist.
pub fn create_key_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let key = random_hex()?;
    let content = Zeroizing::new([key.as_bytes(), b"\n"].concat());
    create_file(path, 0o600, &content)?;
    Ok(content)
}

/// 256 random bits as text.
pub fn random_hex() -> Result<Zeroizing<String>> {
    let mut random = Zeroizing::new([0u8; KEY_BYTES]);
    let mut source = File::open("/dev/urandom").map_err(|error| CliError::system("open", "/dev/urandom", error))?;
    source.read_exact(random.as_mut()).map_err(|error| CliError::system("read", "/dev/urandom", error))?;
    let mut text = Zeroizing::new(String::with_capacity(KEY_BYTES * 2));
    for byte in random.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    Ok(text)
}

/// How a password can be given without a terminal.
const PROMPT_HELP: &str = "set MOVER_PASSWORD_FILE or MOVER_PASSWORD, or use --password-file or --key-file";

fn prompt(question: &str, twice: bool, help: &str) -> Result<Zeroizing<String>> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| {
        let asked = question.trim_end_matches([':', ' ']);
        CliError::usage(format!("no {asked} was given and there is no terminal to ask on"), help)
    })?;
    let first = ask(&mut terminal, question)?;
    if first.is_empty() {
        return Err(CliError::usage("the password is empty", "type at least one character"));
    }
    if twice && ask(&mut terminal, "the same again: ")? != first {
        return Err(CliError::usage("the two passwords differ", "run the command again"));
    }
    Ok(first)
}

/// Gives the terminal back as it was.
struct Quiet<'t> {
    terminal: &'t File,
    before: Termios,
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Asks once. Signals from the keyboard are off meanwhile, so that the echo always comes back.
fn ask(terminal: &mut File, question: &str) -> Result<Zeroizing<String>> {
    let broken = |error: std::io::Error| CliError::system("use", "the terminal", error);
    let mut reader = terminal.try_clone().map_err(broken)?;
    let before = tcgetattr(&reader).map_err(|error| broken(error.into()))?;
    let mut quiet_modes = before.clone();
    quiet_modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    quiet_modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    quiet_modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    let guard_handle = terminal.try_clone().map_err(broken)?;
    tcsetattr(&reader, OptionalActions::Flush, &quiet_modes).map_err(|error| broken(error.into()))?;
    let guard = Quiet { terminal: &guard_handle, before };
    terminal.write_all(question.as_bytes()).map_err(broken)?;
    let typed = read_keys(&mut reader);
    drop(guard);
    terminal.write_all(b"\n").map_err(broken)?;
    password_or_empty(typed?)
}

fn password_or_empty(bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>> {
    if bytes.is_empty() { Ok(Zeroizing::default()) } else { password(bytes, "the terminal") }
}

fn read_keys(reader: &mut impl Read) -> Result<Zeroizing<Vec<u8>>> {
    let mut typed = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX));
    let mut key = Zeroizing::new([0u8]);
    loop {
        let end = reader.read(key.as_mut()).map_err(|error| CliError::system("read", "the terminal", error))? == 0;
        match key[0] {
            _ if end => return Ok(typed),
            b'\r' | b'\n' | 0x04 => return Ok(typed),
            0x03 => return Err(CliError { exit: Exit::Interrupted, message: "interrupted".to_owned(), help: None }),
            0x15 => typed.clear(),
            0x08 | 0x7f => {
                // the last character, not only its last byte
                while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            byte if typed.len() < PASSWORD_BYTES_MAX => typed.push(byte),
            _ => return Err(CliError::usage("the password is longer than 4KiB", "use a key file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn from_file(content: &[u8]) -> Result<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, content).unwrap();
        match read(&CredentialSource::PasswordFile(path), false, &Output::new(false, true))? {
            Credential::Password(password) => Ok(password.as_str().to_owned()),
            other => panic!("a password file is no key: {other:?}"),
        }
    }

    #[test]
    fn the_end_of_the_line_is_no_part_of_the_password() {
        for content in [&b"correct horse"[..], b"correct horse\n", b"correct horse\r\n", b"correct horse\nnotes\n"] {
            assert_eq!(from_file(content).unwrap(), "correct horse");
        }
        assert_eq!(from_file(b" a ").unwrap(), " a ", "blanks belong to it");
        for content in [&b""[..], b"\n", b"\xff\xfe", &[b'x'; 5000][..]] {
            assert_eq!(from_file(content).unwrap_err().exit, Exit::Usage);
        }
    }

    #[test]
    fn a_new_key_file_is_private_and_never_replaces_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let key = create_key_file(&path).unwrap();
        assert_eq!(key.len(), 65);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        match read(&CredentialSource::KeyFile(path.clone()), false, &Output::new(false, true)).unwrap() {
            Credential::KeyFile(content) => assert_eq!(content, key),
            other => panic!("a key file is no password: {other:?}"),
        }
        assert!(create_key_file(&path).is_err());
    }

    #[test]
    fn keys_are_read_as_a_line_editor_does() {
        let typed = |keys: &[u8]| read_keys(&mut &keys[..]).map(|bytes| bytes.to_vec());
        assert_eq!(typed(b"secret\n").unwrap(), b"secret");
        assert_eq!(typed("xä\x7fy\r".as_bytes()).unwrap(), b"xy");
        assert_eq!(typed(b"wrong\x15right\x04").unwrap(), b"right");
        assert_eq!(typed(b"ab\x03").unwrap_err().exit, Exit::Interrupted);
    }
}
