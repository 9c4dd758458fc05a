//! `corpus DIR`: three kinds of data to measure on, the same bytes for the same seed on every machine.
//!
//! `source`: 86,000 files of text, 1.4 GiB, of the sizes of a large program. `image`: one file of 3 GiB like an image of
//! a file system: text, binaries, repeats, and holes. `random`: 2 GiB that do not compress. `--scale` makes all smaller.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::{Result, during};

const SOURCE_FILES: f64 = 86_000.0;
const SOURCE_FILE_BYTES_MEAN: f64 = 17_500.0;
const IMAGE_BYTES: f64 = 3.0 * 1_073_741_824.0;
const RANDOM_BYTES: f64 = 2.0 * 1_073_741_824.0;
const BLOCK_BYTES: usize = 1 << 20;

/// What to make, and where.
#[derive(Args)]
pub struct Options {
    /// Where to make it: DIR/source, DIR/image, DIR/random
    directory: PathBuf,
    /// Which kind; default: all three
    #[arg(long, value_enum)]
    kind: Vec<Kind>,
    /// Another seed gives other bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// 0.1 makes a tenth of everything
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Source,
    Image,
    Random,
}

/// Makes the data.
pub fn run(options: &Options) -> Result<bool> {
    let all = [Kind::Source, Kind::Image, Kind::Random];
    let wanted: &[Kind] = if options.kind.is_empty() { &all } else { &options.kind };
    for kind in wanted {
        let (name, made) = match kind {
            Kind::Source => ("source", source(&options.directory.join("source"), options)),
            Kind::Image => ("image", image(&options.directory.join("image"), options)),
            Kind::Random => ("random", random(&options.directory.join("random"), options)),
        };
        let bytes = during(format!("make {name} in {}", options.directory.display()), made)?;
        println!("{name}: {bytes} bytes");
    }
    Ok(true)
}

/// Numbers and bytes from BLAKE3's extendable output: fast, and the same everywhere.
struct Stream {
    reader: blake3::OutputReader,
    buffer: Vec<u8>,
    used: usize,
}

impl Stream {
    fn new(seed: u64, what: &str) -> Stream {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(what.as_bytes());
        Stream { reader: hasher.finalize_xof(), buffer: vec![0; 64 << 10], used: 64 << 10 }
    }

    fn number(&mut self) -> u64 {
        if self.used == self.buffer.len() {
            self.reader.fill(&mut self.buffer);
            self.used = 0;
        }
        let word = &self.buffer[self.used..self.used + 8];
        self.used += 8;
        u64::from_le_bytes(word.try_into().expect("eight bytes"))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Text whose words follow Zipf's law, in lines with indentation: compresses like source code, about four to one.
struct Text {
    words: Vec<String>,
}

impl Text {
    fn new(seed: u64) -> Text {
        const SYLLABLES: [&str; 24] = [
            "dev", "reg", "ctl", "buf", "get", "set", "net", "skb", "irq", "page", "lock", "init", "free", "map",
            "work", "node", "list", "ring", "addr", "len", "flag", "mask", "port", "size",
        ];
        let mut stream = Stream::new(seed, "words");
        let keywords =
            ["int", "if (", "return", "struct", "static", "void", "->", "= 0;", "const", "unsigned", "/*", "*/"];
        let mut words: Vec<String> = keywords.map(str::to_owned).to_vec();
        while words.len() < 20_000 {
            let parts = 1 + stream.below(3);
            let syllables: Vec<&str> = (0..parts).map(|_| SYLLABLES[stream.below(24) as usize]).collect();
            words.push(format!("{}{}", syllables.join("_"), stream.below(40)));
        }
        Text { words }
    }

    fn fill(&self, stream: &mut Stream, bytes: usize, out: &mut Vec<u8>) {
        out.clear();
        // A file speaks of a few things over and over.
        let topic = stream.below(self.words.len() as u64 - 64) as usize;
        while out.len() < bytes {
            let indentation = stream.below(4) as usize;
            out.extend_from_slice(&b"\t\t\t\t"[..indentation]);
            for _ in 0..2 + stream.below(6) {
                let number = stream.number();
                let word = match number % 10 {
                    0..5 => topic + (number >> 8) as usize % 24,
                    5..9 => (number >> 8) as usize % 12,
                    _ => ((self.words.len() as f64).powf((number >> 11) as f64 / (1_u64 << 53) as f64)) as usize - 1,
                };
                out.extend_from_slice(self.words[word.min(self.words.len() - 1)].as_bytes());
                out.push(b" ,;()"[(number >> 60) as usize % 5]);
            }
            out.push(b'\n');
        }
        out.truncate(bytes);
    }
}

fn source(directory: &Path, options: &Options) -> std::io::Result<u64> {
    let text = Text::new(options.seed);
    let mut stream = Stream::new(options.seed, "source");
    let (mut content, mut total) = (Vec::new(), 0);
    let count = (SOURCE_FILES * options.scale).max(1.0) as u64;
    let mut place = directory.to_owned();
    for number in 0..count {
        if number % 15 == 0 {
            let (outer, middle, inner) = (number / 3000, number / 150 % 20, number / 15 % 10);
            place = directory.join(format!("part{outer:02}/sub{middle:02}/dir{inner}"));
            std::fs::create_dir_all(&place)?;
        }
        // Log-normal by the sum of uniforms: many small files, a few of megabytes.
        let normal = (0..12).map(|_| stream.share()).sum::<f64>() - 6.0;
        let bytes = (SOURCE_FILE_BYTES_MEAN * (normal * 1.25 - 0.78).exp()) as usize;
        text.fill(&mut stream, bytes.min(8 << 20), &mut content);
        let suffix = ["c", "h", "c", "rst", "dts"][stream.below(5) as usize];
        std::fs::write(place.join(format!("file_{number:06}.{suffix}")), &content)?;
        total += content.len() as u64;
    }
    Ok(total)
}

fn image(directory: &Path, options: &Options) -> std::io::Result<u64> {
    std::fs::create_dir_all(directory)?;
    let text = Text::new(options.seed);
    let mut stream = Stream::new(options.seed, "image");
    let bytes = (IMAGE_BYTES * options.scale) as u64 / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let file = File::create(directory.join("disk.img"))?;
    file.set_len(bytes)?;
    let mut earlier: Vec<u8> = Vec::new();
    let mut block = Vec::new();
    let mut offset = 0;
    while offset < bytes {
        // Runs of one kind, as files and free space lie in a file system.
        let run = (1 + stream.below(16)) * BLOCK_BYTES as u64;
        let kind = stream.below(100);
        let end = bytes.min(offset + run);
        while offset < end {
            match kind {
                0..25 => {}
                25..30 => file.write_all_at(&earlier, offset)?,
                30..65 => {
                    text.fill(&mut stream, BLOCK_BYTES, &mut block);
                    file.write_all_at(&block, offset)?;
                }
                65..85 => {
                    binary(&mut stream, &mut block);
                    file.write_all_at(&block, offset)?;
                }
                _ => {
                    block.resize(BLOCK_BYTES, 0);
                    stream.reader.fill(&mut block);
                    file.write_all_at(&block, offset)?;
                }
            }
            if kind >= 30 && earlier.is_empty() {
                earlier.clone_from(&block);
            }
            offset += BLOCK_BYTES as u64;
        }
    }
    Ok(bytes)
}

/// Like machine code and tables: small numbers among random ones.
fn binary(stream: &mut Stream, block: &mut Vec<u8>) {
    block.clear();
    while block.len() < BLOCK_BYTES {
        let number = stream.number();
        let width = (number % 5) as usize;
        block.extend_from_slice(&number.to_le_bytes()[..width]);
        block.extend_from_slice(&[0x48, 0x8b, 0x45, 0xf8, 0, 0, 0, 0][..8 - width]);
    }
    block.truncate(BLOCK_BYTES);
}

fn random(directory: &Path, options: &Options) -> std::io::Result<u64> {
    std::fs::create_dir_all(directory)?;
    let mut stream = Stream::new(options.seed, "random");
    let blocks = (RANDOM_BYTES * options.scale) as u64 / 4 / BLOCK_BYTES as u64;
    let mut block = vec![0; BLOCK_BYTES];
    for number in 0..4 {
        let mut file = BufWriter::new(File::create(directory.join(format!("random-{number}")))?);
        for _ in 0..blocks.max(1) {
            stream.reader.fill(&mut block);
            file.write_all(&block)?;
        }
        file.flush()?;
    }
    Ok(blocks.max(1) * 4 * BLOCK_BYTES as u64)
}
