//! Bytes a second of the parser's steps on one core, beside csv-core's bare scan in the same run.
//!
//! `cargo run --release --example parse_bench FILE [ROUNDS [CANDIDATE …]]` reads a file; a name of [`MADE`] instead of a path makes one
//! of 64 MiB from a fixed seed, and `make NAME MIB PATH` only writes it. Each round takes every candidate once, so that a
//! busy machine slows all of them; time is the thread's own on the processor (`/proc/thread-self/schedstat`; the clock's
//! where there is none). Prints one JSON line with all seconds. A candidate that finds another number of rows than the
//! first ends the bench.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use dari_parser::steps::{self, Steps};
use dari_parser::{Options, Parser};
use sha2::{Digest, Sha256};

/// As gRPC brings it.
const FEED_BYTES: usize = 256 * 1024;
/// Files that can be made, by name.
const MADE: &[(&str, Row)] = &[("sales", sales), ("korean", korean), ("quoted", quoted), ("numbers", numbers)];
const CANDIDATES: &[(&str, Candidate)] = &[
    ("csv_core", csv_core),
    ("scan", |file| Some(steps::run(file, FEED_BYTES, Steps::default()).0)),
    ("evidence", |file| Some(steps::run(file, FEED_BYTES, Steps { evidence: true, ..Steps::default() }).0)),
    ("evidence_copy", |file| Some(steps::run(file, FEED_BYTES, Steps { evidence: true, copy: true, terms: false }).0)),
    ("terms", |file| Some(steps::run(file, FEED_BYTES, Steps { terms: true, ..Steps::default() }).0)),
    ("whole", whole),
    ("sha256", sha256),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["make", name, mib, path] = arguments[..] {
        std::fs::write(path, make(mib.parse::<usize>().unwrap() << 20, made(name).unwrap())).unwrap();
        return;
    }
    let name = arguments[0];
    let rounds = arguments.get(1).map_or(5, |rounds| rounds.parse().unwrap());
    let file = made(name).map_or_else(|| std::fs::read(name).unwrap(), |row| make(64 << 20, row));
    let rows = csv_core(&file);
    let chosen = arguments.get(2..).unwrap_or_default();
    let candidates = CANDIDATES.iter().filter(|(name, _)| chosen.is_empty() || chosen.contains(name));
    let mut measured: Vec<_> = candidates.map(|candidate| (candidate, Vec::new())).collect();
    for _ in 0..rounds {
        for ((name, candidate), seconds) in &mut measured {
            let begin = processor_seconds();
            let found = candidate(black_box(&file));
            seconds.push(processor_seconds() - begin);
            assert!(found.is_none() || found == rows, "{name}: {found:?} rows of {rows:?}");
        }
    }
    let mut line = format!("{{\"bytes\":{},\"rows\":{},\"seconds\":{{", file.len(), rows.unwrap());
    for (number, ((name, _), seconds)) in measured.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        write!(line, "{comma}\"{name}\":{seconds:?}").unwrap();
    }
    println!("{line}}}}}");
}

/// Seconds that this thread was on a processor.
fn processor_seconds() -> f64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|told| told.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

fn made(name: &str) -> Option<Row> {
    MADE.iter().find(|(made, _)| *made == name).map(|(_, row)| *row)
}

/// Reads a file; tells how many rows it found, if it counts them.
type Candidate = fn(&[u8]) -> Option<u64>;
/// Appends one row.
type Row = fn(&mut String, u64, &mut Random);

#[expect(clippy::unnecessary_wraps, reason = "one type for all candidates")]
fn whole(file: &[u8]) -> Option<u64> {
    let mut parser = Parser::new(Options::default(), None).unwrap();
    let mut rows = 0;
    for feed in file.chunks(FEED_BYTES) {
        for batch in parser.feed(feed).unwrap() {
            rows += batch.rows_stored;
            parser.reuse(batch.rows);
        }
    }
    Some(rows + parser.finish().unwrap().batches.iter().map(|batch| batch.rows_stored).sum::<u64>())
}

fn csv_core(file: &[u8]) -> Option<u64> {
    let mut reader = csv_core::Reader::new();
    let (mut output, mut ends) = (vec![0; 1 << 20], vec![0; 1_500]);
    let (mut rest, mut records) = (file, 0_u64);
    loop {
        let (result, read, _, _) = reader.read_record(rest, &mut output, &mut ends);
        rest = &rest[read..];
        match result {
            csv_core::ReadRecordResult::Record => records += 1,
            csv_core::ReadRecordResult::End => return Some(records - 1),
            _ => {}
        }
    }
}

fn sha256(file: &[u8]) -> Option<u64> {
    black_box(Sha256::digest(file));
    None
}

fn make(bytes: usize, row: Row) -> Vec<u8> {
    let mut random = Random(20_240_131);
    let mut file = String::with_capacity(bytes + 1_000);
    let mut rows = 0;
    row(&mut file, rows, &mut random);
    let columns = file.split(',').count();
    file.clear();
    file.push_str(&(1..=columns).map(|number| format!("c{number}")).collect::<Vec<_>>().join(","));
    file.push('\n');
    while file.len() < bytes {
        row(&mut file, rows, &mut random);
        rows += 1;
    }
    file.into_bytes()
}

fn sales(file: &mut String, row: u64, random: &mut Random) {
    let (city, product) = (random.of(&["Seoul", "Busan", "Incheon", "Daegu", "Jeju"]), random.of(PRODUCTS));
    let (day, month, price) = (random.below(28) + 1, random.below(12) + 1, random.below(1_000_000));
    let (code, count) = (random.below(100_000), random.below(500));
    writeln!(
        file,
        "{row},2024-{month:02}-{day:02},{city},{product} {},AB-{code:05},{count},{}.{:02},true",
        random.of(&["large", "small", "new", "used"]),
        price / 100,
        price % 100,
    )
    .unwrap();
}

fn korean(file: &mut String, row: u64, random: &mut Random) {
    let gu = random.of(&["강남구", "서초구", "마포구", "송파구", "종로구", "해운대구"]);
    let kind = random.of(&["휴게음식점", "일반음식점", "제과점영업", "편의점", "커피숍"]);
    let name = random.of(&["다리식당", "한강카페", "서울분식", "바다횟집", "대한제과"]);
    writeln!(
        file,
        "{row},서울특별시 {gu} 세종대로 {},{kind},{name} {}호점,02-{:03}-{:04},2024.03.{:02},영업/정상",
        random.below(400),
        random.below(90),
        random.below(1_000),
        random.below(10_000),
        random.below(28) + 1,
    )
    .unwrap();
}

fn quoted(file: &mut String, row: u64, random: &mut Random) {
    writeln!(
        file,
        "\"{row}\",\"{} {} with the {}\"\"{}\"\" option\",\"{}@example.com\",\"{}\",\"a longer note about order {}\"",
        random.of(PRODUCTS),
        random.of(PRODUCTS),
        random.of(&["best", "worst"]),
        random.of(PRODUCTS),
        random.below(100_000),
        random.below(1_000),
        random.below(1_000_000),
    )
    .unwrap();
}

fn numbers(file: &mut String, row: u64, random: &mut Random) {
    write!(file, "{row}").unwrap();
    for _ in 0..12 {
        write!(file, ",{}.{:03}", random.below(1_000), random.below(1_000)).unwrap();
    }
    file.push('\n');
}

const PRODUCTS: &[&str] = &["chair", "table", "lamp", "keyboard", "monitor", "notebook", "bridge", "kettle"];

/// `SplitMix64`: the same file on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}
