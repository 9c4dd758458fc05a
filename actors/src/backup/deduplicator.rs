//! Deduplicator: names every chunk by its content and keeps those that the repository lacks.
//!
//! The name is BLAKE3 keyed by the repository's id secret. A chunk that is in the index, or that
//! another shard is storing at this moment, costs its hash and nothing more. Chunk lists go to the
//! recorder in the order of the file; new chunks go to the compressor of the same shard, pointing
//! into the buffer that they were read into.
//!
//! Lives on one shard, beside the chunkers whose buffers it reads. Must never wait for a chunk to
//! become durable: sealing the fileset does.

use std::sync::Arc;

use mover_repository::ids::ChunkId;
use mover_repository::manifest::Piece;

use crate::backup::buffers::ReadBuffer;
use crate::backup::chunker::LANES;
use crate::backup::claims::Claim;
use crate::backup::messages::{CutBuffer, CutSpan, NewChunks, PartRecord, Recorded};
use crate::backup::shared::JobShared;
use crate::error::Failure;
use crate::runtime::{Actor, Address, Pace, Runtime};

/// See the module.
pub struct Deduplicator<R: Runtime> {
    rt: R,
    job: Arc<JobShared>,
    /// Pieces of the part that each lane has begun and not ended.
    begun: [Vec<Piece>; LANES],
    pace: Pace,
    compressor: Address<NewChunks>,
    recorder: Address<Recorded>,
}

impl<R: Runtime> Deduplicator<R> {
    /// A deduplicator in front of `compressor`, on the same shard.
    pub fn new(rt: &R, job: Arc<JobShared>, compressor: Address<NewChunks>, recorder: Address<Recorded>) -> Self {
        Self { rt: rt.clone(), job, begun: Default::default(), pace: Pace::new(), compressor, recorder }
    }

    async fn name(&mut self, plain: &[u8]) -> Result<(ChunkId, Claim), Failure> {
        let id = self.job.repository.secrets().chunk_id(plain);
        self.pace.work(&self.rt, plain.len()).await;
        let claim = self.job.claim(&id).await?;
        self.job.progress.add_chunks(1);
        if claim == Claim::Mine {
            self.job.progress.add_chunks_new(1);
            self.job.progress.add_bytes_new(plain.len() as u64);
        }
        Ok((id, claim))
    }

    async fn store(
        &mut self,
        data: &Arc<ReadBuffer>,
        chunks: Vec<(ChunkId, std::ops::Range<usize>)>,
    ) -> Result<(), Failure> {
        if chunks.is_empty() {
            return Ok(());
        }
        let message = NewChunks::Data { data: data.clone(), chunks };
        Ok(self.compressor.send(message).await?)
    }
}

impl<R: Runtime> Actor for Deduplicator<R> {
    type Message = CutBuffer;
    const NAME: &'static str = "deduplicator";

    async fn handle(&mut self, buffer: CutBuffer) -> Result<(), Failure> {
        let CutBuffer { lane, data, parts } = buffer;
        let mut new = vec![];
        let mut records = vec![];
        for part in parts {
            for span in part.spans {
                let piece = match span {
                    CutSpan::Hole(bytes) => Piece::Hole { bytes },
                    CutSpan::Chunk(range) => {
                        let (id, claim) = self.name(&data[range.clone()]).await?;
                        let bytes = u32::try_from(range.len()).expect("a chunk is shorter than 4 GiB");
                        if claim == Claim::Mine {
                            new.push((id, range));
                        }
                        Piece::Chunk { id, bytes }
                    }
                };
                self.begun[lane].push(piece);
            }
            if let Some(end) = part.end {
                let pieces = std::mem::take(&mut self.begun[lane]);
                records.push(PartRecord { of: end.of, pieces, outcome: end.outcome });
            }
        }
        self.store(&data, new).await?;
        if records.is_empty() {
            return Ok(());
        }
        Ok(self.recorder.send(Recorded::Parts(records)).await?)
    }
}
