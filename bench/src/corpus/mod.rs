//! `corpus DIR`: data to measure on, the same bytes for the same seed on every machine, and edits of it in place.
//!
//! Each kind lies in DIR/KIND. DIR/KIND.generation says which edit it has seen last, so that edits, which are applied
//! one after another, are never applied twice or out of order. What exists is never overwritten silently by an edit of
//! another number.

pub mod bytes;
pub mod edit;
mod large;
#[cfg(test)]
mod tests;
mod trees;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::{Result, during};

/// What to make, and where.
#[derive(Args)]
pub struct Options {
    /// Where to make it: DIR/source, DIR/image, …
    directory: PathBuf,
    /// Which kind (may be repeated); default: source, image, mixed, random
    #[arg(long, value_enum)]
    kind: Vec<Kind>,
    /// Another seed gives other bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// 0.1 makes a tenth of everything
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Make nothing, but edit what is there from generation N-1 to N
    #[arg(long, value_name = "N", conflicts_with = "touch")]
    generation: Option<u32>,
    /// Make nothing, but give every file that is there another time: same bytes
    #[arg(long)]
    touch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// 86,000 files of text, 1.4 GiB
    Source,
    /// One image of a file system, 3 GiB with holes; its changed version lies in DIR/image-changed
    Image,
    /// 24,000 files, 3 GiB: documents, programs, logs, compressed media, copies
    Mixed,
    /// Four files, 2 GiB, that do not compress
    Random,
    /// 6,000 files, 0.8 GiB, where 30 generations of edits begin (--generation 1 … 30)
    Aged,
    /// 1,000,000 tiny files: 4 GiB of disk
    Wide,
    /// One sparse file of 64 GiB with 64 MiB of data
    Huge,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Source => "source",
            Kind::Image => "image",
            Kind::Mixed => "mixed",
            Kind::Random => "random",
            Kind::Aged => "aged",
            Kind::Wide => "wide",
            Kind::Huge => "huge",
        }
    }

    fn make(self, directory: &Path, seed: u64, scale: f64) -> std::io::Result<u64> {
        match self {
            Kind::Source => trees::source(directory, seed, scale),
            Kind::Mixed => trees::mixed(directory, seed, scale),
            Kind::Aged => trees::aged(directory, seed, scale),
            Kind::Wide => trees::wide(directory, seed, scale),
            Kind::Random => large::random(directory, seed, scale),
            Kind::Huge => large::huge(directory, seed, scale),
            Kind::Image => {
                let bytes = large::image(directory, seed, scale)?;
                let changed = directory.with_file_name("image-changed");
                std::fs::create_dir_all(&changed)?;
                edit::copy_sparse(&directory.join("disk.img"), &changed.join("disk.img"))?;
                edit::apply(&changed, seed, 1, edit::INCREMENTAL)?;
                Ok(bytes)
            }
        }
    }

    fn strength(self) -> edit::Strength {
        if self == Kind::Aged { edit::AGEING } else { edit::INCREMENTAL }
    }
}

/// Makes or edits the data.
pub fn run(options: &Options) -> Result<bool> {
    let usual = [Kind::Source, Kind::Image, Kind::Mixed, Kind::Random];
    let wanted: &[Kind] = if options.kind.is_empty() { &usual } else { &options.kind };
    for kind in wanted {
        let place = options.directory.join(kind.name());
        let said = match options.generation {
            Some(number) => edit_to(&place, *kind, options.seed, number)?,
            None if options.touch => {
                let files = during(format!("touch {}", place.display()), edit::touch(&place))?;
                format!("{files} files have other times")
            }
            None => make(&place, *kind, options)?,
        };
        println!("{}: {said}", kind.name());
    }
    Ok(true)
}

fn make(place: &Path, kind: Kind, options: &Options) -> Result<String> {
    let bytes = during(format!("make {}", place.display()), kind.make(place, options.seed, options.scale))?;
    during("record the generation", std::fs::write(generation_file(place), "0\n"))?;
    Ok(format!("{bytes} bytes"))
}

fn generation_file(place: &Path) -> PathBuf {
    place.with_extension("generation")
}

fn edit_to(place: &Path, kind: Kind, seed: u64, number: u32) -> Result<String> {
    // Data from before edits existed has no record: it is as it was made.
    let recorded = std::fs::read_to_string(generation_file(place)).unwrap_or_else(|_| "0".to_owned());
    let now: u32 = during(format!("read {}", generation_file(place).display()), recorded.trim().parse())?;
    if number == 0 || now != number - 1 {
        return Err(format!("{} is at generation {now}: the next one is {}", place.display(), now + 1));
    }
    let edited = during(format!("edit {}", place.display()), edit::apply(place, seed, number, kind.strength()))?;
    during("record the generation", std::fs::write(generation_file(place), format!("{number}\n")))?;
    Ok(format!("generation {number}: {edited}"))
}
