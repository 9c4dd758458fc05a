//! Seeded bytes for test trees: the same seed gives the same content on every machine. Not for keys.

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, good enough to defeat compression.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator that always gives the same numbers for `seed`.
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }

    /// `count` bytes that do not compress.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// `count` bytes of words, which compress about three to one.
    pub fn text(&mut self, count: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "chunk",
            "frame",
            "static",
            "return",
            "struct",
            "pack ",
            "index",
            "unsigned",
            "if (",
            ");\n",
            "{\n\t",
            "}\n\n",
            "int ",
            "-> ",
            "/* why */",
            "0x",
        ];
        let mut bytes = Vec::with_capacity(count + 16);
        while bytes.len() < count {
            let number = self.next_u64();
            bytes.extend_from_slice(WORDS[(number % 16) as usize].as_bytes());
            if number & 0x70 == 0 {
                bytes.extend_from_slice(format!("{:x}", number >> 40).as_bytes());
            }
            bytes.push(b' ');
        }
        bytes.truncate(count);
        bytes
    }
}
