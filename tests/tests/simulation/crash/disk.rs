//! A disk with a *live* and a *durable* image, fed with the recorded steps of the local backend.
//!
//! It promises what POSIX does and no more: bytes are durable after an fsync of their file, a name after an fsync of
//! its directory, and until then each of them may survive a power cut or not, in any order. A rename is one step.

use std::collections::BTreeMap;

use bytes::Bytes;
use mover_repository::backend::local::disk_trace::DiskStep;
use mover_tests::random::Random;

use crate::world::Objects;

/// What becomes of what no sync covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It is all there: the process was killed, and the machine runs on.
    Killed,
    /// It is gone.
    Lost,
    /// Names are there; bytes are cut short, or zeros.
    Torn(u64),
    /// Of names and bytes some are there, whatever their order was.
    Reordered(u64),
}

type NodeId = usize;

#[derive(Clone)]
enum NameStep {
    Add(String, NodeId),
    Remove(String),
    Rename(String, String),
}

#[derive(Clone, Default)]
struct Directory {
    live: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    pending: Vec<NameStep>,
}

#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<(u64, Vec<u8>)>,
}

#[derive(Clone)]
enum Node {
    Directory(Directory),
    File(File),
}

/// See the module.
#[derive(Clone)]
pub struct Disk {
    nodes: Vec<Node>,
    /// Files by the step that created them.
    files: BTreeMap<usize, NodeId>,
    steps: usize,
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Directory {
    fn apply(entries: &mut BTreeMap<String, NodeId>, step: &NameStep) {
        match step {
            NameStep::Add(name, node) => _ = entries.insert(name.clone(), *node),
            NameStep::Remove(name) => _ = entries.remove(name),
            NameStep::Rename(from, to) => {
                if let Some(node) = entries.remove(from) {
                    entries.insert(to.clone(), node);
                }
            }
        }
    }

    fn take(&mut self, step: NameStep) {
        Self::apply(&mut self.live, &step);
        self.pending.push(step);
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.live);
        self.pending.clear();
    }

    fn after(&self, cut: Cut, random: &mut Random) -> BTreeMap<String, NodeId> {
        match cut {
            Cut::Killed | Cut::Torn(_) => self.live.clone(),
            Cut::Lost => self.durable.clone(),
            Cut::Reordered(_) => {
                let mut entries = self.durable.clone();
                self.pending.iter().filter(|_| random.below(2) == 0).for_each(|step| Self::apply(&mut entries, step));
                entries
            }
        }
    }
}

fn write_at(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    content.resize(content.len().max(end), 0);
    content[offset as usize..end].copy_from_slice(bytes);
}

impl File {
    fn sync(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            write_at(&mut self.durable, offset, &bytes);
        }
    }

    fn after(&self, cut: Cut, random: &mut Random) -> Vec<u8> {
        let mut content = self.durable.clone();
        for (offset, bytes) in &self.pending {
            match cut {
                Cut::Killed => write_at(&mut content, *offset, bytes),
                Cut::Lost => {}
                Cut::Torn(_) => {
                    let kept = random.below(bytes.len() as u64) as usize;
                    write_at(&mut content, *offset, &bytes[..kept]);
                    // The length got through before the bytes.
                    if random.below(2) == 0 {
                        let zeros = vec![0; bytes.len() - kept];
                        write_at(&mut content, *offset + kept as u64, &zeros);
                    }
                }
                Cut::Reordered(_) if random.below(2) == 0 => write_at(&mut content, *offset, bytes),
                Cut::Reordered(_) => {}
            }
        }
        content
    }
}

impl Disk {
    /// An empty directory.
    pub fn new() -> Disk {
        Disk { nodes: vec![Node::Directory(Directory::default())], files: BTreeMap::new(), steps: 0 }
    }

    /// A disk that holds these objects, durably.
    pub fn holding(objects: &Objects) -> Disk {
        let mut disk = Disk::new();
        for (name, body) in objects {
            let mut path = String::new();
            for component in split(name).0.split('/').filter(|component| !component.is_empty()) {
                let parent = std::mem::take(&mut path);
                path = if parent.is_empty() { component.to_owned() } else { format!("{parent}/{component}") };
                if !disk.directory(&parent).live.contains_key(component) {
                    disk.add(&path, Node::Directory(Directory::default()));
                }
            }
            disk.add(name, Node::File(File { durable: body.to_vec(), pending: vec![] }));
        }
        disk.settle();
        disk
    }

    /// Leaves the next step of the record out.
    pub fn skip(&mut self) {
        self.steps += 1;
    }

    fn directory(&mut self, path: &str) -> &mut Directory {
        let mut at = 0;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            let Node::Directory(directory) = &self.nodes[at] else { panic!("{path}: not a directory") };
            at = directory.live[component];
        }
        let Node::Directory(directory) = &mut self.nodes[at] else { panic!("{path}: not a directory") };
        directory
    }

    fn add(&mut self, path: &str, node: Node) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(node);
        let (parent, name) = split(path);
        self.directory(parent).take(NameStep::Add(name.to_owned(), id));
        id
    }

    fn file(&mut self, created_by: usize) -> &mut File {
        match &mut self.nodes[self.files[&created_by]] {
            Node::File(file) => file,
            Node::Directory(_) => panic!("step {created_by} made a directory"),
        }
    }

    /// Takes the next step of the record.
    pub fn take(&mut self, step: &DiskStep) {
        match step {
            DiskStep::MakeDirectory(path) => _ = self.add(path, Node::Directory(Directory::default())),
            DiskStep::CreateFile(path) => {
                let id = self.add(path, Node::File(File::default()));
                self.files.insert(self.steps, id);
            }
            DiskStep::Write { file, offset, bytes } => self.file(*file).pending.push((*offset, bytes.clone())),
            DiskStep::SyncFile(file) => self.file(*file).sync(),
            DiskStep::SyncDirectory(path) => self.directory(path).sync(),
            DiskStep::Link { from, to } => {
                let ((parent, name), (new_parent, new_name)) = (split(from), split(to));
                let id = self.directory(parent).live[name];
                self.directory(new_parent).take(NameStep::Add(new_name.to_owned(), id));
            }
            DiskStep::Rename { from, to } => {
                let ((parent, name), (new_parent, new_name)) = (split(from), split(to));
                assert_eq!(parent, new_parent, "a rename between directories");
                self.directory(parent).take(NameStep::Rename(name.to_owned(), new_name.to_owned()));
            }
            DiskStep::Unlink(path) | DiskStep::RemoveDirectory(path) => {
                let (parent, name) = split(path);
                self.directory(parent).take(NameStep::Remove(name.to_owned()));
            }
        }
        self.steps += 1;
    }

    fn settle(&mut self) {
        for node in &mut self.nodes {
            match node {
                Node::Directory(directory) => directory.sync(),
                Node::File(file) => file.sync(),
            }
        }
    }

    /// The objects that are found after a cut; unfinished files have no name as objects.
    pub fn after(&self, cut: Cut) -> Objects {
        let seed = match cut {
            Cut::Killed | Cut::Lost => 0,
            Cut::Torn(seed) | Cut::Reordered(seed) => seed,
        };
        let (mut found, mut random) = (Objects::new(), Random::new(seed));
        let mut contents = BTreeMap::new();
        self.collect(0, "", cut, &mut random, &mut contents, &mut found);
        found
    }

    fn collect(
        &self,
        at: NodeId,
        path: &str,
        cut: Cut,
        random: &mut Random,
        contents: &mut BTreeMap<NodeId, Bytes>,
        found: &mut Objects,
    ) {
        match &self.nodes[at] {
            Node::File(file) => {
                // A file of two names has one content.
                let content = contents.entry(at).or_insert_with(|| file.after(cut, random).into());
                found.insert(path.to_owned(), content.clone());
            }
            Node::Directory(directory) => {
                for (name, child) in directory.after(cut, random) {
                    if !name.starts_with(".tmp-") {
                        let child_path = if path.is_empty() { name } else { format!("{path}/{name}") };
                        self.collect(child, &child_path, cut, random, contents, found);
                    }
                }
            }
        }
    }
}

#[test]
fn the_disk_promises_no_more_than_posix_does() {
    let path = |name: &str| name.to_owned();
    let steps = [
        DiskStep::MakeDirectory(path("d")),
        DiskStep::CreateFile(path("d/.tmp-1")),
        DiskStep::Write { file: 1, offset: 0, bytes: b"bytes".to_vec() },
        DiskStep::Link { from: path("d/.tmp-1"), to: path("d/a") },
        DiskStep::SyncFile(1),
        DiskStep::SyncDirectory(path("d")),
        DiskStep::SyncDirectory(path("")),
        DiskStep::Unlink(path("d/a")),
    ];
    let after = |count: usize, cut| {
        let mut disk = Disk::new();
        steps[..count].iter().for_each(|step| disk.take(step));
        disk.after(cut).get("d/a").map(|bytes| bytes.to_vec())
    };
    let whole = Some(b"bytes".to_vec());
    assert_eq!((after(4, Cut::Killed), after(4, Cut::Lost)), (whole.clone(), None));
    assert!(
        (0..9).all(|seed| after(4, Cut::Torn(seed)).unwrap() != whole.clone().unwrap()),
        "its bytes were not synced"
    );
    assert_eq!(after(5, Cut::Torn(0)), whole);
    assert_eq!(after(6, Cut::Lost), None, "the name of the directory is not durable");
    assert_eq!(after(7, Cut::Lost), whole);
    assert_eq!((after(8, Cut::Killed), after(8, Cut::Lost)), (None, whole.clone()), "what was deleted may come back");
    let reordered: Vec<_> = (0..50).map(|seed| after(5, Cut::Reordered(seed))).collect();
    assert!(reordered.contains(&None) && reordered.contains(&whole));
}
