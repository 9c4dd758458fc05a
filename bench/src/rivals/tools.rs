//! The tools side by side: each is one row of command lines. What differs between tools is data here; how they are run
//! and measured is the same code for all.
//!
//! Words in braces are replaced before a run: `{source}` the tree, `{repo}` the repository, `{state}` a directory for
//! caches and keys, `{key}` a file with the `{password}` in it, `{target}` an empty directory to restore to, `{label}` a name
//! of its own for each backup (that of the last one in a restore), `{level}`, `{memory}` what the user asked of mover.
//! An argument whose word has no value is left out together with the option before it. All tools run at their defaults.

use super::record::Phase;

/// One tool.
pub struct Tool {
    /// Name in reports.
    pub name: &'static str,
    /// The binary, found on the PATH.
    pub program: &'static str,
    /// Arguments that print the version.
    pub version: &'static [&'static str],
    /// Commands that make a repository, one after another.
    pub init: &'static [&'static [&'static str]],
    /// The backup command.
    pub backup: &'static [&'static str],
    /// The restore command, run in `{target}`.
    pub restore: &'static [&'static str],
    /// Environment of all three.
    pub environment: &'static [(&'static str, &'static str)],
    /// Where below `{target}` the tree lies after a restore.
    pub restored: Restored,
    /// Which of its phases mean something.
    pub phases: &'static [Phase],
    /// How its repository is reached over ssh, if it speaks that itself.
    pub remote: Option<&'static str>,
    /// What a reader must know to judge it.
    pub note: &'static str,
}

/// Where a tool puts the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Below the target at its absolute path.
    AbsolutePath,
    /// The content of the tree becomes that of the target.
    Content,
}

/// The tool that the others are compared with.
pub const OWN: &str = "mover";
/// The plain copy, no rival: it neither encrypts nor compresses.
pub const PLAIN: &str = "cp -a";

/// All tools that the harness knows.
pub const TOOLS: [Tool; 7] = [
    Tool {
        name: OWN,
        program: "mover",
        version: &["--version"],
        init: &[&["init", "-r", "{repo}", "--new-key-file", "{state}/mover.key"]],
        backup: &[
            "backup",
            "-r",
            "{repo}",
            "--key-file",
            "{state}/mover.key",
            "--json",
            "--stats",
            "--level",
            "{level}",
            "--memory",
            "{memory}",
            "{source}",
        ],
        restore: &[
            "restore",
            "-r",
            "{repo}",
            "--key-file",
            "{state}/mover.key",
            "--json",
            "--memory",
            "{memory}",
            "latest",
            "--target",
            "{target}",
        ],
        environment: &[("XDG_STATE_HOME", "{state}")],
        restored: Restored::AbsolutePath,
        phases: &Phase::ALL,
        remote: None,
        note: "opened by a key file; every acknowledged byte is synced before it ends",
    },
    Tool {
        name: "restic",
        program: "restic",
        version: &["version"],
        init: &[&["init"]],
        backup: &["backup", "--json", "{source}"],
        restore: &["restore", "latest", "--target", "{target}"],
        environment: &[
            ("RESTIC_REPOSITORY", "{repo}"),
            ("RESTIC_PASSWORD_FILE", "{key}"),
            ("RESTIC_CACHE_DIR", "{state}/cache"),
            ("RESTIC_PROGRESS_FPS", "0.01"),
        ],
        restored: Restored::AbsolutePath,
        phases: &Phase::ALL,
        remote: Some("sftp:{host}:{repo}"),
        note: "opened by a password file: its key derivation takes up to half a second a run and cannot be switched off",
    },
    Tool {
        name: "rustic",
        program: "rustic",
        version: &["--version"],
        init: &[&["key", "create", "{state}/rustic.key"], &["init"]],
        backup: &["backup", "--json", "{source}"],
        restore: &["restore", "latest:{source}", "{target}"],
        environment: &[
            ("RUSTIC_REPOSITORY", "{repo}"),
            ("RUSTIC_KEY_FILE", "{state}/rustic.key"),
            ("RUSTIC_CACHE_DIR", "{state}/cache"),
            ("RUSTIC_NO_PROGRESS", "true"),
        ],
        restored: Restored::Content,
        phases: &Phase::ALL,
        remote: None,
        note: "opened by a file with its master key",
    },
    Tool {
        name: "borg",
        program: "borg",
        version: &["--version"],
        init: &[&["init", "--encryption", "repokey-blake2"]],
        backup: &["create", "--json", "::{label}", "{source}"],
        restore: &["extract", "--sparse", "::{label}"],
        environment: &[
            ("BORG_REPO", "{repo}"),
            ("BORG_PASSPHRASE", "{password}"),
            ("BORG_BASE_DIR", "{state}"),
            ("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes"),
            ("BORG_EXIT_CODES", "modern"),
        ],
        restored: Restored::AbsolutePath,
        phases: &Phase::ALL,
        remote: Some("ssh://{host}{repo}"),
        note: "lz4, its default; repokey-blake2; opened by a password in its environment",
    },
    Tool {
        name: "bupstash",
        program: "bupstash",
        version: &["--version"],
        init: &[&["init"], &["new-key", "-o", "{state}/bupstash.key"]],
        backup: &["put", "--no-progress", "--print-stats", "name={label}", "{source}"],
        restore: &["restore", "--quiet", "--into", "{target}", "name={label}"],
        environment: &[
            ("BUPSTASH_REPOSITORY", "{repo}"),
            ("BUPSTASH_KEY", "{state}/bupstash.key"),
            ("BUPSTASH_SEND_LOG", "{state}/send-log"),
            ("BUPSTASH_QUERY_CACHE", "{state}/query-cache"),
        ],
        restored: Restored::Content,
        phases: &Phase::ALL,
        remote: Some("ssh://{host}{repo}"),
        note: "opened by a key file; restores neither owners nor extended attributes by default",
    },
    Tool {
        name: "kopia",
        program: "kopia",
        version: &["--version"],
        init: &[&["repository", "create", "filesystem", "--path", "{repo}"]],
        backup: &["snapshot", "create", "--json", "--no-progress", "{source}"],
        restore: &["snapshot", "restore", "--snapshot-time", "latest", "{source}", "{target}"],
        environment: &[
            ("KOPIA_CONFIG_PATH", "{state}/kopia.config"),
            ("KOPIA_CACHE_DIRECTORY", "{state}/cache"),
            ("KOPIA_LOG_DIR", "{state}/logs"),
            ("KOPIA_PASSWORD", "{password}"),
            ("KOPIA_CHECK_FOR_UPDATES", "false"),
        ],
        restored: Restored::Content,
        phases: &Phase::ALL,
        remote: None,
        note: "does not compress by default",
    },
    Tool {
        name: PLAIN,
        program: "cp",
        version: &["--version"],
        init: &[],
        backup: &["-a", "{source}", "{repo}"],
        restore: &["-a", "{source}/.", "{target}"],
        environment: &[],
        restored: Restored::Content,
        phases: &[Phase::First, Phase::Restore],
        remote: None,
        note: "a plain copy for reference: no compression, no encryption, no deduplication, no sync; its restore copies the source",
    },
];

/// The words and their values for one run.
pub struct Words<'w>(pub &'w [(&'w str, &'w str)]);

impl Words<'_> {
    /// Replaces all words in `text`; `None` where a word has no value.
    pub fn fill(&self, text: &str) -> Option<String> {
        let mut filled = text.to_owned();
        for (word, value) in self.0 {
            filled = filled.replace(&format!("{{{word}}}"), value);
        }
        let open = filled.find('{').is_some_and(|at| filled[at..].contains('}'));
        if open { None } else { Some(filled) }
    }

    /// Fills a command line; an argument without value goes, and so does the option before it.
    pub fn arguments(&self, template: &[&str]) -> Vec<String> {
        let mut filled: Vec<String> = Vec::new();
        for part in template {
            match self.fill(part) {
                Some(argument) => filled.push(argument),
                None => drop(filled.pop_if(|before| before.starts_with("--"))),
            }
        }
        filled
    }
}

impl Tool {
    /// The tool of this name.
    pub fn named(name: &str) -> Option<&'static Tool> {
        TOOLS.iter().find(|tool| tool.name == name)
    }

    /// A command line for a report.
    pub fn line(&self, arguments: &[&str]) -> String {
        format!("{} {}", self.program, arguments.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::{TOOLS, Tool, Words};

    #[test]
    fn rivals_words_are_replaced_and_options_without_value_left_out() {
        let words = Words(&[("source", "/data"), ("repo", "/repo"), ("state", "/state"), ("level", "3")]);
        let mover = Tool::named("mover").expect("mover");
        let filled = words.arguments(mover.backup);
        assert_eq!(filled.join(" "), "backup -r /repo --key-file /state/mover.key --json --stats --level 3 /data");
        assert_eq!(words.fill("::{label}"), None);
        assert_eq!(words.fill("plain").as_deref(), Some("plain"));
    }

    #[test]
    fn rivals_every_word_of_every_tool_is_known() {
        let words = ["source", "repo", "state", "key", "password", "target", "label", "level", "memory", "host"];
        let pairs: Vec<(&str, &str)> = words.iter().map(|word| (*word, "x")).collect();
        for tool in &TOOLS {
            let mut parts: Vec<&str> = tool.init.concat();
            parts.extend(tool.backup.iter().chain(tool.restore));
            parts.extend(tool.environment.iter().map(|(_, value)| *value));
            parts.extend(tool.remote);
            for part in parts {
                assert!(Words(&pairs).fill(part).is_some(), "{}: {part}", tool.name);
            }
        }
    }
}
