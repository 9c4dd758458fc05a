//! Keys that people carry as text: key pairs in files, recovery keys on paper.
//!
//! Each is 256 bits in hexadecimal digits, behind a word that says what it is and in front of a checksum: 8 digits of
//! the BLAKE3 of the bits. So a typing error is told from a key that opens nothing. The checksum of a secret is printed
//! beside all of it, so it gives nothing away.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::crypto::{hpke, random_array};
use crate::error::{RepositoryError, Result};
use crate::ids::ObjectId;

/// Word in front of a private key.
const PRIVATE: &str = "mover-private-key-";
/// Word in front of a public key.
const PUBLIC: &str = "mover-public-key-";
/// Word in front of a recovery key.
const RECOVERY: &str = "mover-recovery-";
/// Digits of a key, and of the checksum behind it.
const KEY_DIGITS: usize = 64;
const CHECKSUM_DIGITS: usize = 8;
/// Digits in one group of a recovery key.
const GROUP_DIGITS: usize = 4;

/// The public half of a key pair: what is sealed to it opens only with the private half.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(crate) [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}-{}", ObjectId(self.0), checksum(&self.0).as_str())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self> {
        let rest = text.trim().strip_prefix(PUBLIC).ok_or(RepositoryError::BadCredential {
            reason: "it is no public key: that is a line which begins with mover-public-key-",
        })?;
        Ok(Self(*key_of(rest)?))
    }
}

/// The private half. Zeroized when dropped, never printed.
#[derive(Clone)]
pub struct PrivateKey(pub(crate) Zeroizing<[u8; 32]>);

impl PrivateKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(hpke::generate_key_pair().0)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(hpke::public_of(&self.0))
    }

    /// What a file of it holds.
    pub fn to_text(&self) -> Zeroizing<String> {
        let digits = digits(self.0.as_slice());
        Zeroizing::new(format!("{PRIVATE}{}-{}\n", digits.as_str(), checksum(&self.0).as_str()))
    }

    /// Reads a file of it; none if it is a key file of another kind.
    ///
    /// # Errors
    /// [`RepositoryError::BadCredential`] if it was changed.
    pub fn from_file(content: &[u8]) -> Result<Option<Self>> {
        let Some(rest) = content.strip_prefix(PRIVATE.as_bytes()) else { return Ok(None) };
        let text = std::str::from_utf8(rest).map_err(|_| typing_error())?;
        key_of(text.trim_end()).map(|key| Some(Self(key)))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, <redacted>)", self.public())
    }
}

/// A new recovery key, in groups that can be read aloud and typed. It opens as a password does.
pub fn recovery_key() -> Zeroizing<String> {
    in_groups(&Zeroizing::new(random_array()))
}

/// If a password is a recovery key as somebody typed it, the same as it was printed: capitals, blanks and missing
/// dashes do not matter.
///
/// # Errors
/// [`RepositoryError::BadCredential`] if its checksum is wrong.
pub(crate) fn recovery_key_as_printed(typed: &str) -> Result<Option<Zeroizing<String>>> {
    let lower = Zeroizing::new(typed.trim().to_ascii_lowercase());
    let Some(rest) = lower.strip_prefix(RECOVERY) else { return Ok(None) };
    let is_digit = |letter: &char| *letter != '-' && !letter.is_whitespace();
    let digits: Zeroizing<String> = Zeroizing::new(rest.chars().filter(is_digit).collect());
    let Some((key, sum)) = digits.split_at_checked(KEY_DIGITS) else { return Err(typing_error()) };
    let key = key_of(&Zeroizing::new(format!("{key}-{sum}")))?;
    Ok(Some(in_groups(&key)))
}

fn in_groups(key: &Zeroizing<[u8; 32]>) -> Zeroizing<String> {
    let (digits, sum) = (digits(key.as_slice()), checksum(key));
    let mut text = Zeroizing::new(String::with_capacity(RECOVERY.len() + 2 * (KEY_DIGITS + CHECKSUM_DIGITS)));
    text.push_str(RECOVERY);
    for (at, digit) in digits.chars().chain(sum.chars()).enumerate() {
        if at > 0 && at % GROUP_DIGITS == 0 {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// Reads `<64 digits>-<8 digits>`.
fn key_of(text: &str) -> Result<Zeroizing<[u8; 32]>> {
    let (digits, sum) = text.split_once('-').ok_or_else(typing_error)?;
    let key = Zeroizing::new(digits.parse::<ObjectId>().map_err(|_| typing_error())?.0);
    if *checksum(&key) != sum {
        return Err(typing_error());
    }
    Ok(key)
}

fn typing_error() -> RepositoryError {
    RepositoryError::BadCredential { reason: "the key has a typing error: its checksum does not match" }
}

fn checksum(key: &[u8; 32]) -> Zeroizing<String> {
    digits(&blake3::hash(key).as_bytes()[..CHECKSUM_DIGITS / 2])
}

fn digits(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("a digit is below 16"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_pair_survives_its_files_and_a_changed_one_is_a_typing_error() {
        let private = PrivateKey::generate();
        let text = private.to_text();
        let again = PrivateKey::from_file(text.as_bytes()).unwrap().expect("a private key");
        assert_eq!(again.public(), private.public());
        let public = private.public().to_string();
        assert_eq!(format!("{public}\n").parse::<PublicKey>().unwrap(), private.public());
        for at in PUBLIC.len()..public.len() {
            let mut changed = public.clone().into_bytes();
            changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(matches!(changed.parse::<PublicKey>(), Err(RepositoryError::BadCredential { .. })), "{at}");
        }
        assert!(PrivateKey::from_file(text.replace('-', "--").as_bytes()).is_ok_and(|key| key.is_none()));
        assert!(PrivateKey::from_file(&text.as_bytes()[..text.len() - 2]).is_err());
        assert!(PrivateKey::from_file(&[7; 32]).unwrap().is_none());
        let printed = format!("{private:?}");
        assert!(!printed.contains(&text[PRIVATE.len()..PRIVATE.len() + 8]), "{printed}");
    }

    #[test]
    fn a_recovery_key_may_be_typed_carelessly_and_a_typing_error_is_told() {
        let printed = recovery_key();
        assert_eq!(printed.len(), RECOVERY.len() + 64 + 8 + 17);
        let same = |typed: &str| recovery_key_as_printed(typed).map(|key| key.map(|key| key.to_string()));
        let digits = &printed[RECOVERY.len()..];
        for typed in [
            printed.to_string(),
            printed.to_uppercase(),
            format!(" {}\n", printed.as_str()),
            format!("{RECOVERY}{}", digits.replace('-', "")),
            format!("{RECOVERY}{}", digits.replace('-', " ")),
        ] {
            assert_eq!(same(&typed).unwrap().as_deref(), Some(printed.as_str()), "{typed}");
        }
        for at in (RECOVERY.len()..printed.len()).filter(|at| printed.as_bytes()[*at] != b'-') {
            let mut changed = printed.as_bytes().to_vec();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(matches!(same(&changed), Err(RepositoryError::BadCredential { .. })), "{at}");
            assert!(same(&printed[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(same("correct horse battery staple").unwrap(), None);
    }
}
