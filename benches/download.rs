//! A whole NAR from a source to the disk cache, beside what only decompressing it takes.
//!
//! `cargo bench --bench download [-- DIR]`. The NAR of DIR (`/usr/lib/gcc`), compressed in each way, comes from memory in pieces of 64 KiB, so the network
//! costs nothing and all that is added shows: hashing (SHA-256), parsing, sealing, writing. Medians of five interleaved rounds.

use std::env;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use erisfs::block::{Disk, DiskSettings};
use erisfs::compress::{Compression, decoder};
use erisfs::content::Deadline;
use erisfs::download::{Downloads, NarSource, NarStream, SourceError, Verified, Wanted};
use erisfs::nar;
use erisfs::store::NarHash;
use futures::{StreamExt, stream};

const ROUNDS: usize = 5;

#[derive(Debug, Clone)]
struct InMemory {
    file: Bytes,
    compression: Compression,
}

#[async_trait]
impl NarSource for InMemory {
    fn name(&self) -> &str {
        "memory"
    }

    fn compression(&self) -> Compression {
        self.compression
    }

    async fn open(&self, from: u64) -> Result<NarStream, SourceError> {
        let file = self.file.clone();
        let pieces = (from as usize..file.len()).step_by(64 * 1024);
        let length = Some(file.len() as u64);
        let body =
            stream::iter(pieces.map(move |at| Ok(file.slice(at..file.len().min(at + 64 * 1024))))).boxed();
        Ok(NarStream { from, length, body })
    }
}

fn pack(compression: Compression, nar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(nar).and_then(|()| encoder.finish()).expect("writing to memory")
        }
        Compression::Zstd => zstd::encode_all(nar, 3).expect("writing to memory"),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(nar).and_then(|()| encoder.finish()).expect("writing to memory")
        }
        _ => nar.to_vec(),
    }
}

/// What something took: by the clock, and of processors.
struct Taken {
    clock: Instant,
    processor: Duration,
}

impl Taken {
    fn begin() -> Self {
        Self { clock: Instant::now(), processor: processor() }
    }

    fn end(&self) -> [Duration; 2] {
        [self.clock.elapsed(), processor() - self.processor]
    }
}

fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn decode(source: &InMemory) -> [Duration; 2] {
    let start = Taken::begin();
    let mut decoder = decoder(source.compression, &source.file[..]);
    let mut piece = vec![0; 128 * 1024];
    while decoder.read(&mut piece).expect("it is sound") > 0 {}
    start.end()
}

async fn download(source: &InMemory, wanted: &Wanted) -> [Duration; 2] {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let size = 8 * wanted.nar_size.max(DiskSettings::MIN_SIZE);
    let disk =
        Disk::open(dir.path(), DiskSettings { size, free_floor: 0, resize: true }).expect("a good size");
    let downloads = Downloads::new(disk, Verified::open(&dir.path().join("verified")));
    let start = Taken::begin();
    let wanted = Wanted { sources: vec![Arc::new(source.clone())], ..wanted.clone() };
    let download = downloads.start(wanted);
    download.finished(Deadline::after(Duration::from_secs(600))).await.expect("it comes");
    start.end()
}

/// By the clock, and of processors.
fn medians(times: &[[Duration; 2]]) -> [f64; 2] {
    [0, 1].map(|way| {
        let mut times: Vec<_> = times.iter().map(|times| times[way]).collect();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    })
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let dir = env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut nar = Vec::new();
    nar::dump(Path::new(dir.as_deref().unwrap_or("/usr/lib/gcc")), &mut nar).map_err(io::Error::other)?;
    let (nar_hash, nar_size) = (NarHash::of(&nar), nar.len() as u64);
    let wanted = Wanted { name: "bench".into(), nar_hash, nar_size, sources: Vec::new() };
    println!("a NAR of {} MB", nar_size / 1_000_000);
    println!("{:6} {:>27} {:>27}", "", "MB/s by the clock", "MB/s of processor time");
    println!("{:6} {:>13} {:>13} {:>13} {:>13}", "", "decode", "download", "decode", "download");
    for compression in [Compression::None, Compression::Gzip, Compression::Xz, Compression::Zstd] {
        let source = InMemory { file: pack(compression, &nar).into(), compression };
        let (mut alone, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            alone.push(decode(&source));
            whole.push(download(&source, &wanted).await);
        }
        let ([alone, alone_processor], [whole, whole_processor]) = (medians(&alone), medians(&whole));
        let rate = |seconds: f64| nar_size as f64 / 1e6 / seconds;
        let [alone, whole] = [alone, whole].map(rate);
        let [alone_processor, whole_processor] = [alone_processor, whole_processor].map(rate);
        println!(
            "{:6} {alone:13.0} {whole:13.0} {alone_processor:13.0} {whole_processor:13.0}",
            compression.to_string()
        );
    }
    Ok(())
}
