//! What a backup reads: the PATH arguments, the filesets of the config file, or standard input.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mover_actors::source::file::{ExcludedInode, FileSource, FileSourceOptions};
use mover_actors::source::filter::{FilterOptions, FilterRule};
use mover_actors::source::{
    Attributes, FileKind, FileRequest, FilesRead, FilesetSpec, Listed, Listing, ListingRest, Source, SourceFile,
    SourceFuture, Stat,
};

use super::Session;
use super::error::{CliError, Result};
use super::text::escape;
use crate::config::{BackupSettings, FilesetSettings};

/// One path with rules of its own.
pub struct Root {
    /// Real absolute path.
    pub path: PathBuf,
    rules: Vec<FilterRule>,
    exclude_if_present: Vec<String>,
    exclude_caches: bool,
    one_file_system: bool,
}

impl Root {
    fn has_own_filter(&self) -> bool {
        !self.rules.is_empty() || !self.exclude_if_present.is_empty() || self.exclude_caches || self.one_file_system
    }

    /// The filter of the settings with that of this path.
    fn filter(&self, base: &FilterOptions) -> FilterOptions {
        let mut filter = base.clone();
        filter.rules.extend_from_slice(&self.rules);
        filter.exclude_if_present.extend(self.exclude_if_present.iter().map(|name| name.clone().into_bytes()));
        filter.exclude_caches |= self.exclude_caches;
        filter.one_file_system |= self.one_file_system;
        filter
    }
}

/// The paths to back up: those that were typed, or else those of the config file.
///
/// # Errors
/// None at all (exit 2), or one that does not exist (exit 1).
pub fn roots(typed: &[PathBuf], configured: &[FilesetSettings]) -> Result<Vec<Root>> {
    let named: Vec<FilesetSettings> = match typed {
        [] => configured.to_vec(),
        paths => paths.iter().cloned().map(FilesetSettings::new).collect(),
    };
    if named.is_empty() {
        return Err(CliError::usage(
            "nothing to back up was named",
            "give one or more PATHs, --stdin NAME, or [[fileset]] entries in the config file",
        ));
    }
    let mut roots: Vec<Root> = Vec::new();
    for fileset in named {
        let path = real_path(&fileset.path)?;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            return Err(CliError::failed(
                format!("{} is a socket: there is nothing in it to back up", shown(&path)),
                "name the directory of what serves it; sockets below a PATH are left out and counted",
            ));
        }
        if roots.iter().any(|root| root.path == path) {
            return Err(CliError::usage(format!("{} is named twice", path.display()), "name each PATH once"));
        }
        let mut rules: Vec<FilterRule> = fileset.exclude.into_iter().map(rule).collect();
        rules.extend(fileset.include.into_iter().map(FilterRule::Include));
        roots.push(Root {
            path,
            rules,
            exclude_if_present: fileset.exclude_if_present,
            exclude_caches: fileset.exclude_caches,
            one_file_system: fileset.one_file_system,
        });
    }
    Ok(roots)
}

/// The path with every link in it followed: what restore can put back without following any.
pub fn real_path(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|error| {
        CliError::system("back up", escape(path.as_os_str().as_bytes()), error)
            .with_help("name a file or directory that exists and that you may enter")
    })
}

fn rule(pattern: String) -> FilterRule {
    match pattern.strip_prefix('!') {
        Some(pattern) => FilterRule::Include(pattern.to_owned()),
        None => FilterRule::Exclude(pattern),
    }
}

/// The filter that the settings describe; files of rules come first, the last match decides.
fn filter(backup: &BackupSettings, name_excluded: bool) -> FilterOptions {
    let files = backup.exclude_file.iter().flatten().cloned().map(FilterRule::ExcludeFile);
    let patterns = backup.exclude.iter().flatten().cloned().map(rule);
    FilterOptions {
        rules: files.chain(patterns).collect(),
        exclude_caches: backup.exclude_caches.unwrap_or(false),
        exclude_if_present: backup.exclude_if_present.iter().flatten().map(|name| name.clone().into_bytes()).collect(),
        one_file_system: backup.one_file_system.unwrap_or(false),
        bytes_max: backup.max_size.map(|size| size.0),
        bytes_min: backup.min_size.map(|size| size.0),
        name_excluded,
    }
}

/// Leaves a directory out by what it is, wherever it lies; nothing if it is not on this machine.
pub fn leave_out(place: &Path, note: &str) -> Option<ExcludedInode> {
    let metadata = fs::metadata(place).ok()?;
    Some(ExcludedInode { device: metadata.dev(), inode: metadata.ino(), note: note.to_owned() })
}

/// The source of these roots under the settings of `[backup]`.
pub fn source(
    session: &Session,
    roots: &[Root],
    name_excluded: bool,
    left_out: Vec<ExcludedInode>,
) -> Result<Arc<dyn Source>> {
    let base = filter(&session.resolved.settings.backup, name_excluded);
    let open = |paths: Vec<PathBuf>, filter: FilterOptions| {
        let mut options = FileSourceOptions::new(paths);
        options.filter = filter;
        options.excluded_inodes = left_out.clone();
        options.threads = session.resolved.shards.max(2) * 2;
        FileSource::new(options)
            .map_err(|error| CliError::failed(error.to_string(), "check the path, or the pattern, and run it again"))
    };
    if !name_excluded && !roots.iter().any(Root::has_own_filter) {
        let paths = roots.iter().map(|root| root.path.clone()).collect();
        return Ok(Arc::new(open(paths, base)?));
    }
    let mut parts = Vec::new();
    for root in roots {
        parts.push(open(vec![root.path.clone()], root.filter(&base))?);
    }
    Ok(Arc::new(Sequence { parts }))
}

/// Several sources of one fileset each as one, so that each fileset can have rules of its own, and what is
/// left out of it is named by its absolute path.
struct Sequence {
    parts: Vec<FileSource>,
}

impl Source for Sequence {
    fn describe(&self) -> String {
        self.parts.iter().map(Source::describe).collect::<Vec<_>>().join(", ")
    }

    fn fileset_count(&self) -> usize {
        self.parts.len()
    }

    fn fileset(&self, k: usize) -> FilesetSpec {
        self.parts[k].fileset(0)
    }

    fn root(&self, k: usize) -> SourceFuture<Listed> {
        self.parts[k].root(0)
    }

    fn list(&self, k: usize, directory: &[u8]) -> SourceFuture<Listing> {
        let (root, listed) = (self.parts[k].fileset(0).root_path, self.parts[k].list(0, directory));
        Box::pin(async move { Ok(named_by(root, listed.await?)) })
    }

    fn stat(&self, k: usize, path: &[u8]) -> SourceFuture<Stat> {
        self.parts[k].stat(0, path)
    }

    fn attributes(&self, k: usize, path: &[u8], kind: FileKind) -> SourceFuture<Attributes> {
        self.parts[k].attributes(0, path, kind)
    }

    fn read_files(&self, k: usize, files: Vec<FileRequest>, buffer: Vec<u8>) -> SourceFuture<FilesRead> {
        self.parts[k].read_files(0, files, buffer)
    }

    fn open_file(&self, k: usize, path: &[u8], stat: &Stat) -> SourceFuture<Arc<dyn SourceFile>> {
        self.parts[k].open_file(0, path, stat)
    }
}

/// The listing with absolute paths of what was left out.
fn named_by(root: Vec<u8>, mut listing: Listing) -> Listing {
    for path in &mut listing.excluded.paths {
        *path = super::entries::below(&root, path);
    }
    listing.more = listing.more.map(|rest| Box::new(NamedRest { root, rest }) as Box<dyn ListingRest>);
    listing
}

struct NamedRest {
    root: Vec<u8>,
    rest: Box<dyn ListingRest>,
}

impl ListingRest for NamedRest {
    fn next(self: Box<Self>) -> SourceFuture<Listing> {
        let NamedRest { root, rest } = *self;
        let listed = rest.next();
        Box::pin(async move { Ok(named_by(root, listed.await?)) })
    }
}

/// Refuses paths inside the repository: a backup of it into itself would never be what was meant.
pub fn refuse_below(repository: &Path, roots: &[Root]) -> Result<()> {
    let Ok(repository) = fs::canonicalize(repository) else { return Ok(()) };
    match roots.iter().find(|root| root.path.starts_with(&repository)) {
        None => Ok(()),
        Some(root) => Err(CliError::usage(
            format!("{} lies inside the repository {}", shown(&root.path), shown(&repository)),
            "name what the repository is to protect, or another repository with -r",
        )),
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// The default set: `<host>:<sorted absolute paths>`, printable, paths joined by commas.
pub fn default_set(host: &str, paths: &[&[u8]]) -> String {
    let mut names: Vec<String> = paths.iter().map(|path| escape(path).replace(',', "\\x2c")).collect();
    names.sort();
    format!("{host}:{}", names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn the_default_set_does_not_depend_on_the_order_of_paths() {
        assert_eq!(default_set("web", &[b"/srv", b"/etc"]), "web:/etc,/srv");
        assert_ne!(default_set("web", &[b"/a,/b"]), default_set("web", &[b"/a", b"/b"]));
        assert_eq!(default_set("web", &[b"/a\xff"]), "web:/a\\xff");
    }

    #[test]
    fn roots_are_real_paths_named_once() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        let found = roots(&[real.join("link")], &[]).unwrap();
        assert_eq!(found[0].path, real);
        let exit_of = |typed: &[PathBuf]| roots(typed, &[]).err().map(|error| error.exit);
        assert_eq!(exit_of(&[]), Some(Exit::Usage));
        assert_eq!(exit_of(&[real.clone(), real.join("link")]), Some(Exit::Usage));
        assert_eq!(exit_of(&[real.join("missing")]), Some(Exit::Failed));
    }

    /// A backup of a socket ended with 0 and a recovery point of nothing; one of a part of the repository would
    /// chase its own tail.
    #[test]
    fn a_socket_and_the_repository_itself_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        let socket = std::os::unix::net::UnixListener::bind(real.join("socket")).unwrap();
        assert_eq!(roots(&[real.join("socket")], &[]).err().map(|error| error.exit), Some(Exit::Failed));
        drop(socket);
        for inside in ["repository", "repository/packs"] {
            fs::create_dir_all(real.join(inside)).unwrap();
            let named = roots(&[real.join(inside)], &[]).unwrap();
            let refused = refuse_below(&real.join("repository"), &named).unwrap_err();
            assert!(refused.exit == Exit::Usage && refused.message.contains(inside), "{}", refused.message);
        }
        refuse_below(&real.join("repository"), &roots(&[real], &[]).unwrap()).unwrap();
    }
}
