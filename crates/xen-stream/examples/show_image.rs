//! Prints what a file of `xl save` holds, and checks that reading and writing it gives the same bytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::process::ExitCode;

use xen_stream::{Event, Limits, Reader, StreamKind, Summary, Writer};

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: show_image FILE");
        return ExitCode::from(2);
    };
    match show(&path).and_then(|()| write_again(&path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{path}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn reader(path: &str) -> io::Result<Reader<BufReader<File>>> {
    let file = BufReader::new(File::open(path)?);
    Ok(Reader::new(file, StreamKind::XlFile, Limits::default()))
}

fn show(path: &str) -> io::Result<()> {
    let (summary, error) = Summary::read(&mut reader(path)?);
    if let Some(header) = &summary.file {
        let config = header.config.bytes().len();
        println!("configuration: {config} bytes");
    }
    if let Some(image) = &summary.image {
        let (major, minor) = image.xen;
        println!(
            "guest: {}, Xen {major}.{minor}, version {}",
            image.guest, image.version
        );
    }
    for (kind, number) in &summary.entries {
        println!("pages {kind:?}: {number}");
    }
    println!("pages of the guest: {:?}", summary.guest_pages.get());
    println!("vCPUs: {}", summary.nr_vcpus);
    let (leaves, msrs) = (summary.cpuid_leaves, summary.msr_entries);
    println!(
        "policy: {leaves} leaves, {msrs} MSRs; {} HVM parameters",
        summary.hvm_params
    );
    println!("TSC: {:?}", summary.tsc);
    println!(
        "QEMU: {:?}, {} nodes",
        summary.emulator, summary.emulator_nodes
    );
    println!(
        "whole: {}, {} bytes",
        summary.is_whole, summary.length_bytes
    );
    error.map_or(Ok(()), |error| Err(io::Error::other(error)))
}

/// Compares what is written with the file it was read from.
struct Same<R> {
    file: R,
}

impl<R: Read> Write for Same<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut expected = vec![0; bytes.len()];
        self.file.read_exact(&mut expected)?;
        match expected == bytes {
            true => Ok(bytes.len()),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_again(path: &str) -> io::Result<()> {
    let mut reader = reader(path)?;
    let file = BufReader::new(File::open(path)?);
    let mut writer = Writer::new(Same { file }, StreamKind::XlFile, Limits::default());
    while let Some(event) = reader.next_event().map_err(io::Error::other)? {
        match event {
            Event::Skipped { .. } => return Err(io::Error::other("a record was skipped")),
            event => writer.event(&event).map_err(io::Error::other)?,
        }
    }
    println!("written again: the same {} bytes", writer.offset_bytes());
    Ok(())
}
