//! Frame size and level of the seekable NAR: what small frames cost in size, and what they save when one file is read.
//!
//! `cargo bench --bench frames [-- TREE...]` prints the tables of docs/decisions/0004-frames.md. Of each tree it takes the first
//! 8 MiB of files, which holds it to some minutes. Times are of the CPU, so that another load does not change them.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::Path;

use erisfs::compress::{FrameEncoder, decode_frame};
use erisfs::nar::seekable::{Packer, SeekTable, Settings, Tail};
use erisfs::nar::wire::{Event, Parser, Writer};
use erisfs::nar::{Hasher, Kind, Listing, dump};

/// Contents of files that are taken of a tree.
const TAKEN: u64 = 8 << 20;
const TREES: [&str; 3] = ["/usr/lib/python3.11", "/usr/lib/gcc", "/usr/share/perl"];
const FRAME_SIZES: [usize; 6] = [128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];
const LEVELS: [i32; 4] = [9, 12, 15, 19];
/// Files that are read, each from nothing.
const READS: usize = 200;
/// The ERIS block, which is the least that can be fetched.
const BLOCK: u64 = 32 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let trees = if given.is_empty() { TREES.map(String::from).to_vec() } else { given };
    for tree in trees {
        if Path::new(&tree).is_dir() {
            measure(Path::new(&tree))?;
        } else {
            println!("{tree}: not on this machine, skipped\n");
        }
    }
    parse_listing()
}

fn measure(tree: &Path) -> Result<(), Box<dyn Error>> {
    let mut whole = Vec::new();
    dump(tree, &mut whole)?;
    let nar = head(&whole)?;
    let mut hasher = Hasher::new();
    hasher.write_all(&nar)?;
    let listing = hasher.finish()?.listing;

    let start = cpu_seconds()?;
    let one_frame = FrameEncoder::new(19)?.encode(&nar)?.len();
    let seconds = cpu_seconds()? - start;
    let sample = sample(&listing);
    println!("{}: a NAR of {} MiB, {} nodes", tree.display(), nar.len() >> 20, listing.len());
    println!("One frame at level 19: {:.2}:1, {seconds:.1} s. ", nar.len() as f64 / one_frame as f64);
    let mean = sample.iter().map(|file| file.1).sum::<u64>() / sample.len().max(1) as u64;
    println!("{} files are read, {} KiB each on average.\n", sample.len(), mean >> 10);
    println!(
        "| frame KiB | level | ratio | of one frame | compress MB/s a core | fetched KiB a file | decode ms a file |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for frame_size in FRAME_SIZES {
        for level in LEVELS {
            let mut object = Vec::new();
            let start = cpu_seconds()?;
            let mut packer = Packer::with(&mut object, Settings { frame_size, level });
            packer.write_all(&nar)?;
            packer.finish()?;
            let seconds = (cpu_seconds()? - start).max(0.01);
            let Tail::Seekable { table, .. } = Tail::parse(&object, object.len() as u64)? else {
                return Err("the packed NAR has no seek table".into());
            };
            let (fetched, milliseconds) = read(&object, &table, &sample)?;
            println!(
                "| {} | {level} | {:.2} | {:.0} % | {:.1} | {fetched} | {milliseconds:.2} |",
                frame_size >> 10,
                nar.len() as f64 / object.len() as f64,
                100.0 * one_frame as f64 / object.len() as f64,
                nar.len() as f64 / 1e6 / seconds,
            );
        }
    }
    println!();
    Ok(())
}

/// The NAR of the same tree with the first [`TAKEN`] bytes of its files only.
fn head(nar: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut parser = Parser::new();
    let mut writer = Writer::new(Vec::new())?;
    let mut left = TAKEN;
    while !parser.is_done() {
        let mut rest = &nar[parser.position() as usize..];
        match parser.next(&mut rest)? {
            Some(Event::Directory { name }) => writer.directory(name)?,
            Some(Event::EndDirectory) => writer.end_directory()?,
            Some(Event::File { name, executable, size, offset }) if left > 0 => {
                let size = size.min(left);
                writer.file(name, executable, size, &nar[offset as usize..])?;
                left -= size;
            }
            Some(Event::File { .. }) | None => {}
            Some(Event::Symlink { name, target }) => writer.symlink(name, target)?,
        }
    }
    Ok(writer.finish()?)
}

/// Offset and size of some files, the same ones each time.
fn sample(listing: &Listing) -> Vec<(u64, u64)> {
    let files: Vec<_> = listing
        .nodes()
        .filter_map(|id| match listing.kind(id) {
            Kind::File { size, offset, .. } if size > 0 => Some((offset, size)),
            _ => None,
        })
        .collect();
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    (0..READS.min(files.len())).map(|_| files[random() % files.len()]).collect()
}

/// KiB fetched and milliseconds of decoding for a file, on average.
fn read(object: &[u8], table: &SeekTable, files: &[(u64, u64)]) -> Result<(u64, f64), Box<dyn Error>> {
    let mut fetched = 0;
    let start = cpu_seconds()?;
    for (offset, size) in files {
        let mut next_block = 0;
        for frame in table.frames_covering(*offset..offset + size) {
            let blocks =
                (frame.compressed.start / BLOCK).max(next_block)..frame.compressed.end.div_ceil(BLOCK);
            next_block = blocks.end;
            fetched += (blocks.end - blocks.start) * BLOCK;
            let compressed = &object[frame.compressed.start as usize..frame.compressed.end as usize];
            decode_frame(compressed, (frame.decompressed.end - frame.decompressed.start) as usize)?;
        }
    }
    let reads = files.len().max(1);
    Ok(((fetched / reads as u64) >> 10, (cpu_seconds()? - start) * 1e3 / reads as f64))
}

/// How fast a listing is read: it stands before the first `ls` of a path.
fn parse_listing() -> Result<(), Box<dyn Error>> {
    let mut builder = erisfs::nar::Builder::new();
    builder.directory(b"")?;
    for directory in 0..500 {
        builder.directory(format!("package-{directory:05}").as_bytes())?;
        for file in 0..40 {
            builder.file(format!("module_{file:02}_interface.py").as_bytes(), false, 1000 + file)?;
        }
        builder.end_directory()?;
    }
    builder.end_directory()?;
    let listing = builder.finish()?;
    let mut json = Vec::new();
    listing.to_json(&mut json)?;
    let mut read = listing;
    let start = cpu_seconds()?;
    for _ in 0..50 {
        read = Listing::from_json(&json, Some(read.nar_size()))?;
    }
    let milliseconds = (cpu_seconds()? - start) * 1e3 / 50.0;
    println!(
        "A listing of 20,000 files, {} KiB of JSON: read in {milliseconds:.1} ms into {} KiB, {} bytes a node",
        json.len() >> 10,
        read.memory() >> 10,
        read.memory() / read.len(),
    );
    Ok(())
}

/// CPU time of this process, all its threads together (proc(5): utime and stime in ticks of 10 ms).
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}
