//! The one error of this crate.
//!
//! Each variant says which object, what went wrong and whether a retry can help. Messages are
//! lower-case sentences without a full stop; [`RepositoryError::guidance`] adds the one line that
//! tells a user what to do next.

use crate::backend::{StorageError, StorageErrorKind};
use crate::codec::DecodeError;
use crate::ids::LogNumber;

/// What every fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, RepositoryError>;

/// Why an operation on a repository failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// The store refused or failed an operation.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no `config` object at that place.
    #[error("{place} is not a repository")]
    NotARepository {
        /// Directory or bucket, as [`crate::backend::Backend::describe`] names it.
        place: String,
    },
    /// `init` found a repository already there.
    #[error("{place} already holds a repository")]
    AlreadyARepository {
        /// Directory or bucket.
        place: String,
    },
    /// `init` found something else there.
    #[error("{place} is not empty: it holds {object}")]
    NotEmpty {
        /// Directory or bucket.
        place: String,
        /// The first object found there.
        object: String,
    },
    /// No key slot opens with the given password or key file.
    #[error("wrong password or key file")]
    WrongKey,
    /// The secrets at hand do not include the private read key.
    #[error("{object} cannot be read: this key may only add to the repository")]
    NoReadKey {
        /// What was to be read.
        object: String,
    },
    /// The password or the key file itself is unusable.
    #[error("unusable credential: {reason}")]
    BadCredential {
        /// Why.
        reason: &'static str,
    },
    /// The bytes of an object are not what a writer sealed.
    #[error("{object} is damaged: {reason}")]
    Corrupt {
        /// Object name, or object and frame.
        object: String,
        /// Which check failed.
        reason: String,
    },
    /// An object is of a format that this program does not read: a newer one, or the draft.
    #[error("{object} {}", other_format(*version))]
    OtherFormat {
        /// Object name.
        object: String,
        /// Format version in its header.
        version: u8,
    },
    /// An object is sealed under a generation of keys that the key slot does not hold.
    #[error("{object} is sealed under key generation {generation}, which this key does not hold")]
    UnknownGeneration {
        /// Object name.
        object: String,
        /// Generation in its header.
        generation: u32,
    },
    /// An object that must exist does not.
    #[error("{object} is missing")]
    MissingObject {
        /// Object name.
        object: String,
    },
    /// A number in `log/` is missing below one that exists.
    #[error("{} is missing, and newer records are there", crate::log::open_name(*number))]
    HistoryGap {
        /// The missing number.
        number: LogNumber,
    },
    /// The history differs from what a record or this client has seen before.
    #[error("the history was altered: {reason}")]
    HistoryAltered {
        /// Who saw what.
        reason: String,
        /// The file on this machine that remembers it; none if a record of the repository does.
        memory: Option<String>,
    },
    /// No recovery point of that name.
    #[error("there is no recovery point {spec}")]
    NoSuchPoint {
        /// What was asked for.
        spec: String,
    },
    /// Several recovery points could be meant.
    #[error("{spec} is ambiguous: {reason}")]
    AmbiguousPoint {
        /// What was asked for.
        spec: String,
        /// Two that could be meant.
        reason: String,
    },
    /// A copy from a repository into itself, or into a copy of its files.
    #[error("{from} and {to} are the same repository")]
    SameRepository {
        /// Where to copy from.
        from: String,
        /// Where to copy to.
        to: String,
    },
    /// Another recovery point has the id of one that is to be copied.
    #[error("there is another recovery point with the id {id}")]
    OtherPoint {
        /// The id of both.
        id: crate::ids::ObjectId,
    },
    /// Somebody else decided the outcome of this registration first.
    #[error("this run was fenced: log record {number} already has another outcome")]
    Fenced {
        /// The registration's number.
        number: LogNumber,
    },
    /// Another run of the same job was first; this one publishes nothing.
    #[error("this job has its recovery point already: run {earlier} of it, on {host}, has published it")]
    JobDone {
        /// The run that published.
        earlier: LogNumber,
        /// Where it ran.
        host: String,
    },
    /// The store does not keep what deleting relies on.
    #[error("{place} cannot be trusted with deletes: {what}")]
    UntrustedStore {
        /// Directory or bucket.
        place: String,
        /// What it did.
        what: String,
    },
    /// The store or the build cannot do this.
    #[error("not supported: {what}")]
    NotSupported {
        /// What.
        what: String,
    },
    /// A record or object would exceed a limit of the format.
    #[error("limit exceeded: {what}")]
    LimitExceeded {
        /// Which limit, with numbers.
        what: String,
    },
}

impl RepositoryError {
    /// A [`RepositoryError::Corrupt`] for `object`.
    pub fn corrupt(object: impl Into<String>, reason: impl ToString) -> Self {
        Self::Corrupt { object: object.into(), reason: reason.to_string() }
    }

    /// Turns a failed decode of `object` into [`RepositoryError::Corrupt`]; made for `map_err`.
    pub fn decoding(object: &str) -> impl FnOnce(DecodeError) -> Self + '_ {
        move |error| Self::corrupt(object, error)
    }

    /// True if the same call may succeed later without anyone changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Storage(error) => error.kind.retryable(),
            _ => false,
        }
    }

    /// One line for the user: what to do next. `None` where the message says it all.
    pub fn guidance(&self) -> Option<String> {
        let text = match self {
            Self::Storage(error) => return error.guidance(),
            Self::NotARepository { .. } => "check the path, or create a repository there with `mover init`",
            Self::AlreadyARepository { .. } => "use it as it is, or name another place",
            Self::JobDone { .. } => "nothing is to be done: the next run of the job reports that recovery point",
            Self::NotEmpty { .. } => "name an empty or new directory; mover does not mix with other files",
            Self::WrongKey => {
                "check MOVER_PASSWORD, MOVER_PASSWORD_FILE or MOVER_KEY_FILE; without a valid key the data cannot be read"
            }
            Self::NoReadKey { .. } => "use a full key of this repository",
            Self::BadCredential { .. } => {
                "give a password that is not empty, a recovery key as it was printed, or a key file as it was made"
            }
            Self::Corrupt { object, .. } | Self::MissingObject { object } => return Some(damage_guidance(object)),
            Self::OtherFormat { version: DRAFT, .. } => {
                "restore it with the version of mover that made it, and make a new repository with this one"
            }
            Self::OtherFormat { .. } => "update mover on this machine",
            Self::UnknownGeneration { .. } => {
                "the keys were rotated: run the command again; if that does not help, this key was left out and has to be \
                 added anew, or `keys/rotation/` has to be put back from a copy of the repository"
            }
            Self::HistoryGap { number } => return Some(damage_guidance(&crate::log::open_name(*number))),
            Self::HistoryAltered { memory: None, .. } => return Some(damage_guidance(crate::log::LOG_PREFIX)),
            Self::HistoryAltered { memory: Some(file), .. } => {
                return Some(format!(
                    "somebody removed or rolled back objects of this repository; if you put an older copy in its place, \
                     delete {file} to accept that state: backups made since then are given up, and another rollback \
                     to it would not be noticed. Reading goes on meanwhile"
                ));
            }
            Self::NoSuchPoint { .. } => "list what there is with `mover points`",
            Self::AmbiguousPoint { .. } => "give more digits of the id, or `--set`",
            Self::SameRepository { .. } => "name two; `mover init --like` makes one that suits for copies of another",
            Self::OtherPoint { .. } => {
                "a key of the repository that is copied to may be in wrong hands: look at `mover points` and `mover key list`"
            }
            Self::Fenced { .. } => "run the command again; what was stored is reused",
            Self::UntrustedStore { .. } => {
                "nothing was condemned or deleted; `mover doctor -r` tries all that a repository relies on. Copy this one to \
                 a place that keeps it, such as a directory on ext4, xfs or btrfs, and prune it there"
            }
            Self::NotSupported { .. } | Self::LimitExceeded { .. } => return None,
        };
        Some(text.to_owned())
    }

    /// The object that is damaged or missing, where the message names one.
    pub fn object(&self) -> Option<String> {
        match self {
            Self::Corrupt { object, .. }
            | Self::MissingObject { object }
            | Self::OtherFormat { object, .. }
            | Self::UnknownGeneration { object, .. }
            | Self::NoReadKey { object } => Some(object.clone()),
            Self::HistoryGap { number } => Some(crate::log::open_name(*number)),
            Self::HistoryAltered { .. } => Some(crate::log::LOG_PREFIX.to_owned()),
            Self::Storage(error) => Some(error.object.clone()),
            _ => None,
        }
    }

    /// What is wrong, without the object that [`RepositoryError::object`] names.
    pub fn reason(&self) -> String {
        match self {
            Self::Corrupt { reason, .. } => reason.clone(),
            Self::MissingObject { .. } => "missing".to_owned(),
            Self::HistoryGap { .. } => "missing, and newer records are there".to_owned(),
            other => other.to_string(),
        }
    }

    /// True if somebody else ended the run.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }

    /// True if the cause is a full store.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Storage(error) if error.kind == StorageErrorKind::Full)
    }

    /// True if the bytes that were read are to blame: others, read elsewhere, may do.
    pub(crate) fn blames_bytes(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::OtherFormat { .. } | Self::UnknownGeneration { .. })
    }

    /// True if the cause is an object that is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::MissingObject { .. })
            || matches!(self, Self::Storage(error) if error.kind == StorageErrorKind::NotFound)
    }
}

/// What to do about a damaged or missing object, by what it is.
fn damage_guidance(object: &str) -> String {
    let text = match object.split('/').next().unwrap_or_default() {
        "log" => {
            "put that object back from a copy of the repository. It may hold a recovery point, or say which packs must \
             not be used, so no backup is made without it; restore, points, ls, diff and dump go on with all other \
             records, and `mover verify` lists what is wrong"
        }
        "config" | "keys" => {
            "put `config` and `keys/` back from a copy of the repository: nothing else can replace them, and nothing \
             can be read without them. All other objects may be as good as ever"
        }
        "index" => "`mover repair index` rebuilds the index from the packs",
        _ => "run `mover verify` to see what is affected; `mover repair index` rebuilds a damaged index",
    };
    text.to_owned()
}

/// The version in the headers of what was made before format 1.
const DRAFT: u8 = 0;

fn other_format(version: u8) -> String {
    match version {
        DRAFT => "is of the draft of the format (0), which this version of mover does not read".to_owned(),
        newer => format!("needs a newer version of mover (format {newer})"),
    }
}
