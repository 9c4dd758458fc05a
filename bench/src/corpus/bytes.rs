//! Where the bytes of every data set come from: a seeded stream, text, and what looks like machine code.
//!
//! Everything here is a function of the seed alone, the same on every machine; no clock and no system randomness.

/// The unit in which large files are made.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Numbers and bytes from BLAKE3's extendable output: fast, and the same everywhere.
pub struct Stream {
    reader: blake3::OutputReader,
    buffer: Vec<u8>,
    used: usize,
}

impl Stream {
    /// The stream of one purpose; other purposes of the same seed are independent of it.
    pub fn new(seed: u64, what: &str) -> Stream {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(what.as_bytes());
        Stream { reader: hasher.finalize_xof(), buffer: vec![0; 64 << 10], used: 64 << 10 }
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        if self.used == self.buffer.len() {
            self.reader.fill(&mut self.buffer);
            self.used = 0;
        }
        let word = &self.buffer[self.used..self.used + 8];
        self.used += 8;
        u64::from_le_bytes(word.try_into().expect("eight bytes"))
    }

    /// A number from 0 to `end` - 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A share from 0 to 1.
    pub fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Fills `out` with bytes that do not compress.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.reader.fill(out);
    }

    /// A size around `mean`: log-normal by the sum of uniforms, so many small ones and a few large ones.
    pub fn size(&mut self, mean: f64, most: usize) -> usize {
        let normal = (0..12).map(|_| self.share()).sum::<f64>() - 6.0;
        ((mean * (normal * 1.25 - 0.78).exp()) as usize).min(most)
    }
}

/// Text whose words follow Zipf's law, in lines with indentation: compresses like source code, about four to one.
pub struct Text {
    words: Vec<String>,
}

impl Text {
    /// The vocabulary of one seed.
    pub fn new(seed: u64) -> Text {
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

    /// Replaces `out` by `bytes` bytes of text.
    pub fn fill(&self, stream: &mut Stream, bytes: usize, out: &mut Vec<u8>) {
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

/// Replaces `out` by bytes like machine code and tables: small numbers among random ones.
pub fn binary(stream: &mut Stream, bytes: usize, out: &mut Vec<u8>) {
    out.clear();
    while out.len() < bytes {
        let number = stream.number();
        let width = (number % 5) as usize;
        out.extend_from_slice(&number.to_le_bytes()[..width]);
        out.extend_from_slice(&[0x48, 0x8b, 0x45, 0xf8, 0, 0, 0, 0][..8 - width]);
    }
    out.truncate(bytes);
}
