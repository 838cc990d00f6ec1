//! Medians, and the table that they are printed in.

use std::collections::BTreeMap;
use std::time::Duration;

use super::origin::Seen;

/// One measurement: how long it took, and what travelled.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub took: Duration,
    pub seen: Seen,
}

/// Samples by what was done (a row) and by whom (in the order of their first appearance).
#[derive(Default)]
pub struct Table {
    rows: Vec<String>,
    rivals: Vec<String>,
    samples: BTreeMap<(usize, usize), Vec<Sample>>,
}

impl Table {
    pub fn add(&mut self, row: &str, rival: &str, sample: Sample) {
        let place = |names: &mut Vec<String>, name: &str| match names.iter().position(|known| known == name) {
            Some(place) => place,
            None => {
                names.push(name.to_owned());
                names.len() - 1
            }
        };
        let key = (place(&mut self.rows, row), place(&mut self.rivals, rival));
        self.samples.entry(key).or_default().push(sample);
    }

    /// Prints medians; the ratio is that of the times to the last rival of the row, so 5.0 is five times faster than it.
    pub fn print(&self) {
        println!("| what | who | time | times faster | requests | bytes |");
        println!("| --- | --- | ---: | ---: | ---: | ---: |");
        for (row, what) in self.rows.iter().enumerate() {
            let of_row: Vec<_> =
                (0..self.rivals.len()).filter_map(|rival| Some((rival, self.median(row, rival)?))).collect();
            let Some((_, last)) = of_row.last() else { continue };
            for (rival, median) in &of_row {
                println!(
                    "| {what} | {} | {} | {:.2} | {} | {:.2} MB |",
                    self.rivals[*rival],
                    time(median.took),
                    last.took.as_secs_f64() / median.took.as_secs_f64(),
                    median.seen.requests,
                    median.seen.bytes as f64 / 1e6,
                );
            }
        }
        println!();
    }

    fn median(&self, row: usize, rival: usize) -> Option<Sample> {
        let samples = self.samples.get(&(row, rival))?;
        let middle = |mut of: Vec<u64>| {
            of.sort_unstable();
            of[of.len() / 2]
        };
        let took = middle(samples.iter().map(|sample| sample.took.as_nanos() as u64).collect());
        let requests = middle(samples.iter().map(|sample| sample.seen.requests).collect());
        let bytes = middle(samples.iter().map(|sample| sample.seen.bytes).collect());
        Some(Sample { took: Duration::from_nanos(took), seen: Seen { requests, bytes, ..Seen::default() } })
    }
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}
