//! `xyl check-image`: says what a file of `xl save` holds, and whether it is whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::{Value, json};
use xyl_engine::host::saved_image::{self, ConfigForm, SavedImage};

use crate::context::Context;
use crate::error::{Exit, Failure, Outcome};
use crate::shown::Shown;

/// Show what a file of `xl save` holds, and whether it is whole
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads all of the file, in a process without rights, and prints the guest's name and type, the Xen that saved it, its memory, \
vCPUs and pages. If the file is damaged, it prints what was read so far, and the offset, the part and the cause. No guest is restored, and no \
Xen is needed. The contents of pages and QEMU's state are not checked. Files of libvirt and XAPI, and those of Xen 4.5 and earlier, are \
refused.

Examples:
  xyl check-image /var/lib/xen/save/web
  xyl check-image web.save --json

Exit codes:
  0  the image is whole
  1  the file could not be read
  3  the image is damaged, or is not one that Xyl knows

JSON: {whole, damage: {offset, part, cause} or null, bytes, bytes_after_end, name, type, config, xen, version, memory_max_kib, memory_kib, \
vcpus_max, vcpus, pages: {data, tables, allocate, absent, broken, verified}, qemu_bytes, skipped_records}; memory_kib are the pages that the guest has; \
config is json, bad-json or null; what the image does not say is null"
)]
pub struct Args {
    /// The file
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

/// Runs `xyl check-image`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let (image, file_bytes) = read(&args.file).map_err(|source| {
        Failure::io(
            format!("read {}", Shown::line(&args.file.to_string_lossy())),
            source,
        )
    })?;
    let after_end_bytes = after_end_bytes(&image, file_bytes);
    if context.json() {
        context.out.json(&as_json(&image, after_end_bytes))?;
    } else {
        show(context, &image, after_end_bytes)?;
    }
    match image.damage {
        None => Ok(()),
        Some(_) => {
            context.finish()?;
            Err(Failure::Said(Exit::Found))
        }
    }
}

fn read(path: &Path) -> io::Result<(SavedImage, Option<u64>)> {
    let file = open(path)?;
    let about = file.metadata()?;
    let file_bytes = about.is_file().then_some(about.len());
    saved_image::check(&file).map(|image| (image, file_bytes))
}

/// Opens a file or a block device. A pipe could keep a reader waiting for ever.
pub fn open(path: &Path) -> io::Result<File> {
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(no_wait)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    match kind.is_file() || kind.is_block_device() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is neither a file nor a block device",
        )),
    }
}

/// Bytes behind the end of a whole image, if the length of the file is known.
fn after_end_bytes(image: &SavedImage, file_bytes: Option<u64>) -> Option<u64> {
    let is_whole = image.damage.is_none();
    let file_bytes = file_bytes.filter(|_| is_whole)?;
    Some(file_bytes.saturating_sub(image.length_bytes))
}

/// Memory of the guest's pages in KiB.
fn memory_kib(image: &SavedImage) -> Option<u64> {
    image.guest_pages.map(|pages| pages.saturating_mul(4))
}

fn form_word(form: ConfigForm) -> Option<&'static str> {
    match form {
        ConfigForm::None => None,
        ConfigForm::Json => Some("json"),
        ConfigForm::BadJson => Some("bad-json"),
    }
}

/// Type of the guest. A libxc stream is of a PV guest or another one; the configuration knows PVH from HVM.
fn type_word(image: &SavedImage) -> Option<&'static str> {
    match (image.config.kind, image.xen, image.is_pv) {
        (Some(kind), ..) => Some(kind),
        (None, Some(_), true) => Some("pv"),
        _ => None,
    }
}

fn as_json(image: &SavedImage, after_end_bytes: Option<u64>) -> Value {
    let (config, pages) = (&image.config, &image.entries);
    let damage = image.damage.as_ref().map(|damage| {
        json!({
            "offset": damage.offset_bytes,
            "part": damage.part,
            "cause": damage.cause,
        })
    });
    json!({
        "whole": damage.is_none(),
        "damage": damage,
        "bytes": image.length_bytes,
        "bytes_after_end": after_end_bytes,
        "name": config.name,
        "type": type_word(image),
        "config": form_word(config.form),
        "xen": image.xen.map(|(major, minor)| format!("{major}.{minor}")),
        "version": image.version,
        "memory_max_kib": config.memory_max_kib,
        "memory_kib": memory_kib(image),
        "vcpus_max": config.vcpus_max,
        "vcpus": image.nr_vcpus,
        "pages": {
            "data": pages.data,
            "tables": pages.tables,
            "allocate": pages.allocate,
            "absent": pages.absent,
            "broken": pages.broken,
            "verified": pages.verified,
        },
        "qemu_bytes": image.qemu_bytes,
        "skipped_records": image.skipped_records,
    })
}

fn show(context: &Context, image: &SavedImage, after_end_bytes: Option<u64>) -> Outcome {
    let mut rows = guest_rows(image);
    rows.extend(page_rows(image));
    rows.extend(end_rows(image, after_end_bytes));
    for (name, value) in rows {
        context.out.line(format!("{name:<16}: {value}"))?;
    }
    Ok(())
}

type Row = (&'static str, String);

fn guest_rows(image: &SavedImage) -> Vec<Row> {
    let config = &image.config;
    let mut rows: Vec<Row> = Vec::new();
    if let Some(name) = &config.name {
        rows.push(("name", Shown::name(name).to_string()));
    }
    rows.push((
        "configuration",
        match config.form {
            ConfigForm::None => "none".to_owned(),
            ConfigForm::Json => "JSON of libxl".to_owned(),
            ConfigForm::BadJson => "JSON that cannot be parsed".to_owned(),
        },
    ));
    let Some((major, minor)) = image.xen else {
        return rows;
    };
    rows.push(("type", type_word(image).unwrap_or("pvh or hvm").to_owned()));
    rows.push((
        "saved by",
        match major {
            0 => "Xen 4.5 or earlier, converted".to_owned(),
            _ => format!("Xen {major}.{minor}"),
        },
    ));
    let mib = |kib: Option<u64>| kib.map_or("unknown".to_owned(), |kib| (kib / 1024).to_string());
    rows.push((
        "memory (MiB)",
        format!(
            "{}, at most {}",
            mib(memory_kib(image)),
            mib(config.memory_max_kib)
        ),
    ));
    let most = config.vcpus_max;
    let most = most.map_or("unknown".to_owned(), |most| most.to_string());
    rows.push(("vCPUs", format!("{}, at most {most}", image.nr_vcpus)));
    rows
}

fn page_rows(image: &SavedImage) -> Vec<Row> {
    let pages = &image.entries;
    let numbers = [
        ("data pages", pages.data),
        ("page tables", pages.tables),
        ("empty pages", pages.allocate),
        ("absent pages", pages.absent),
        ("broken pages", pages.broken),
        ("compared pages", pages.verified),
        ("QEMU (bytes)", image.qemu_bytes.unwrap_or(0)),
        ("skipped records", image.skipped_records),
    ];
    numbers
        .into_iter()
        .filter(|(_, number)| *number > 0)
        .map(|(name, number)| (name, number.to_string()))
        .collect()
}

fn end_rows(image: &SavedImage, after_end_bytes: Option<u64>) -> Vec<Row> {
    let Some(damage) = &image.damage else {
        let more = match after_end_bytes {
            None | Some(0) => String::new(),
            Some(more) => format!("; {more} bytes behind its end do not belong to it"),
        };
        return vec![("whole", format!("yes, {} bytes{more}", image.length_bytes))];
    };
    vec![
        ("whole", "no".to_owned()),
        ("damage at byte", damage.offset_bytes.to_string()),
        ("damaged part", Shown::line(&damage.part).to_string()),
        ("cause", Shown::line(&damage.cause).to_string()),
    ]
}
