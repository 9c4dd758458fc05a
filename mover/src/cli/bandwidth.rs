//! The limits of network repositories: set from the settings, and again when the config file changes.
//!
//! While a command works on a network repository, the thread named `bandwidth` looks at the config file every two
//! seconds and sets what its `[bandwidth]` says now. A file that cannot be read or is wrong is reported once and changes
//! nothing. A direction that a flag sets is not looked up in the file. SIGHUP is no request to read it: like SIGINT it
//! asks the job to finish, which a closed terminal has to do.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use mover_repository::bandwidth::{BandwidthLimits, Calendar, TokenBucket};

use super::output::Output;
use crate::config::{BandwidthSettings, read_bandwidth};

/// How often the config file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The limits of this process; while it lives they follow the config file.
pub struct Bandwidth {
    limits: Arc<BandwidthLimits>,
    _follower: Option<Follower>,
}

impl Bandwidth {
    /// What the backend of a network repository asks before it sends and receives.
    pub fn limits(&self) -> Arc<BandwidthLimits> {
        Arc::clone(&self.limits)
    }
}

/// Sets the limits of `settings`. With a `file` they follow it, but for those that `flags` set.
pub fn start(
    output: &Arc<Output>,
    settings: &BandwidthSettings,
    flags: BandwidthSettings,
    file: Option<PathBuf>,
) -> Bandwidth {
    let limits = BandwidthLimits::unlimited();
    limits.set_upload(settings.upload.clone().unwrap_or_else(Calendar::unlimited));
    limits.set_download(settings.download.clone().unwrap_or_else(Calendar::unlimited));
    let is_all_fixed = flags.upload.is_some() && flags.download.is_some();
    let follower = file.filter(|_| !is_all_fixed).and_then(|path| {
        let watch = Watch { path, seen: None, flags, limits: Arc::clone(&limits) };
        follow(watch, LOOK_EVERY, Arc::clone(output))
    });
    Bandwidth { limits, _follower: follower }
}

/// What `config show` tells of a direction that has a limit: the rate now, and from when there is another.
pub fn now_text(bucket: &TokenBucket) -> String {
    let (rate, next) = bucket.now_and_next();
    let until = next.map(|next| format!(" until {}", next.strftime("%a %Y-%m-%d %H:%M %Z")));
    format!("{rate}{}", until.unwrap_or_default())
}

/// The thread that follows the file; dropping it ends the thread.
struct Follower {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn follow(mut watch: Watch, look_every: Duration, output: Arc<Output>) -> Option<Follower> {
    let (stop, stopped) = channel::<()>();
    let work = move || {
        loop {
            for news in watch.look() {
                match news {
                    News::Changed(text) => output.note(&text),
                    News::Wrong(text) => output.warn(&text),
                }
            }
            if stopped.recv_timeout(look_every) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("bandwidth".to_owned()).spawn(work).ok()?;
    Some(Follower { stop: Some(stop), thread: Some(thread) })
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a look at the file found.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// A limit was replaced.
    Changed(String),
    /// The file says nothing that could be used.
    Wrong(String),
}

/// Which file it was and when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    File { inode: u64, modified_s: i64, modified_ns: i64, bytes: u64 },
    Nothing,
}

/// The file, as it was seen last.
struct Watch {
    path: PathBuf,
    /// Nothing before the first look: that one finds what changed since the settings were read.
    seen: Option<Seen>,
    flags: BandwidthSettings,
    limits: Arc<BandwidthLimits>,
}

impl Watch {
    fn look(&mut self) -> Vec<News> {
        // before the file is read: what is written meanwhile is found by the next look
        let seen = Some(look_at(&self.path));
        if self.seen == seen {
            return Vec::new();
        }
        self.seen = seen;
        match read_bandwidth(&self.path) {
            Ok(settings) => {
                let upload = replace(&self.limits.upload, settings.upload, self.flags.upload.is_some());
                let download = replace(&self.limits.download, settings.download, self.flags.download.is_some());
                let told = |direction: &str, calendar: String| {
                    News::Changed(format!("the {direction} limit is now {calendar} ({})", self.path.display()))
                };
                let upload = upload.map(|calendar| told("upload", calendar));
                upload.into_iter().chain(download.map(|calendar| told("download", calendar))).collect()
            }
            Err(error) => vec![News::Wrong(format!("{}; the bandwidth limits stay as they are", error.message))],
        }
    }
}

/// Puts a calendar in force unless it is already, or a flag decides. Gives the new one as text.
fn replace(bucket: &TokenBucket, calendar: Option<Calendar>, is_fixed: bool) -> Option<String> {
    let calendar = calendar.unwrap_or_else(Calendar::unlimited);
    if is_fixed || *bucket.calendar() == calendar {
        return None;
    }
    let text = calendar.to_string();
    bucket.set(calendar);
    Some(text)
}

fn look_at(path: &Path) -> Seen {
    match std::fs::metadata(path) {
        Ok(status) => Seen::File {
            inode: status.ino(),
            modified_s: status.mtime(),
            modified_ns: status.mtime_nsec(),
            bytes: status.len(),
        },
        Err(_) => Seen::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(text: &str, flags: BandwidthSettings) -> (tempfile::TempDir, Watch) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mover.toml");
        std::fs::write(&path, text).unwrap();
        (directory, Watch { path, seen: None, flags, limits: BandwidthLimits::unlimited() })
    }

    /// As editors do it: a new file takes the place of the old one.
    fn write(watch: &Watch, text: &str) {
        let next = watch.path.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &watch.path).unwrap();
    }

    fn in_force(watch: &Watch) -> (String, String) {
        (watch.limits.upload.calendar().to_string(), watch.limits.download.calendar().to_string())
    }

    fn strings(upload: &str, download: &str) -> (String, String) {
        (upload.to_owned(), download.to_owned())
    }

    #[test]
    fn bandwidth_follows_the_config_file() {
        let (_directory, mut watch) = watch("[bandwidth]\nupload = '5MiB/s'\n", BandwidthSettings::default());
        assert_eq!(watch.look().len(), 1);
        assert_eq!(in_force(&watch), strings("5MiB/s", "unlimited"));
        assert!(watch.look().is_empty(), "nothing changed");
        write(&watch, "repo = '/a'\n[bandwidth]\nupload = '5MiB/s'\ndownload = 'sat = 0'\n");
        let news = watch.look();
        assert!(
            matches!(&news[..], [News::Changed(text)] if text.contains("download limit is now sat = 0")),
            "{news:?}"
        );
        write(&watch, "");
        assert_eq!(watch.look().len(), 2);
        assert_eq!(in_force(&watch), strings("unlimited", "unlimited"), "what is not set has no limit");
    }

    #[test]
    fn bandwidth_stays_where_the_new_file_is_wrong_or_gone() {
        let (_directory, mut watch) = watch("[bandwidth]\nupload = '5MiB/s'\n", BandwidthSettings::default());
        watch.look();
        for wrong in ["[bandwidth]\nupload = '5MiB'\n", "[bandwidth\n", "[bandwidth]\nboth = '1MiB/s'\n"] {
            write(&watch, wrong);
            let news = watch.look();
            assert!(
                matches!(&news[..], [News::Wrong(text)] if text.contains("line") && text.contains("stay")),
                "{news:?}"
            );
            assert!(watch.look().is_empty(), "it is told once");
        }
        std::fs::remove_file(&watch.path).unwrap();
        assert!(matches!(&watch.look()[..], [News::Wrong(_)]));
        assert!(watch.look().is_empty());
        assert_eq!(in_force(&watch), strings("5MiB/s", "unlimited"));
        write(&watch, "[bandwidth]\nupload = '6MiB/s'\n");
        assert_eq!(watch.look().len(), 1);
        assert_eq!(in_force(&watch), strings("6MiB/s", "unlimited"));
    }

    #[test]
    fn bandwidth_of_a_flag_is_not_taken_from_the_file() {
        let flags = BandwidthSettings { upload: Some("1MiB/s".parse().unwrap()), download: None };
        let (_directory, mut watch) = watch("[bandwidth]\nupload = '5MiB/s'\ndownload = '6MiB/s'\n", flags.clone());
        watch.limits.set_upload(flags.upload.clone().unwrap());
        assert_eq!(watch.look().len(), 1);
        assert_eq!(in_force(&watch), strings("1MiB/s", "6MiB/s"));

        let output = Arc::new(Output::new(false, true));
        let both = BandwidthSettings { download: flags.upload.clone(), ..flags };
        let started = start(&output, &both, both.clone(), Some(watch.path.clone()));
        assert!(started._follower.is_none(), "nothing is left to follow");
        assert_eq!(started.limits().download.calendar().to_string(), "1MiB/s");
    }

    #[test]
    fn bandwidth_is_followed_by_a_thread_that_ends_with_its_owner() {
        let (_directory, watch) = watch("", BandwidthSettings::default());
        let (limits, path) = (Arc::clone(&watch.limits), watch.path.clone());
        let follower = follow(watch, Duration::from_millis(1), Arc::new(Output::new(false, true))).unwrap();
        std::fs::write(path, "[bandwidth]\ndownload = '3MiB/s'\n").unwrap();
        while limits.download.calendar().is_unlimited() {
            std::thread::yield_now();
        }
        drop(follower);
        assert_eq!(Arc::strong_count(&limits), 1, "the thread holds nothing any more");
    }
}
