//! `cargo xtask abuse`: known attacks, each with what it costs the server and whether anybody else notices.

mod disks;
mod group;
mod memory;
mod probes;
mod protocol;
mod ring;
mod swaps;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::shell::{self, section, shown};
use crate::soak::Subject;
use ring::{Ring, Row};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Use the programs in this directory instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Use this bundle of the ledger's checkpoint instead of building it; one of int8 beside it is swapped to
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Only attacks whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where to write the figures
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let subject = Subject::new(args.programs.as_deref(), args.bundle.as_deref())?;
    let output = args.output.clone().unwrap_or_else(|| shell::target("abuse.json"));
    let work = shell::target("abuse");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let ring = Ring::new(&subject, &work)?;
    let mut rows = Vec::new();
    for (name, attack) in [
        ("request trees", memory::trees as fn(&Ring) -> Result<Vec<Row>>),
        ("log", disks::log),
        ("starved probes", probes::starved),
        ("memory at start", memory::at_start),
        ("held bodies", memory::held_bodies),
        ("many messages", memory::many_messages),
        ("hostile forms", memory::hostile_forms),
        ("tall pictures", memory::tall_pictures),
        ("changed files", disks::changed_files),
        ("broken templates", disks::broken_templates),
        ("foreign directories", disks::foreign_directories),
        ("hostile bundles", swaps::hostile_bundles),
        ("protocol", protocol::protocol),
        ("metadata", memory::metadata),
    ] {
        if args.only.as_deref().is_none_or(|only| name.contains(only)) {
            rows.extend(section(name, || attack(&ring))?);
            // Whatever comes next, what was seen so far is kept.
            let table: Vec<_> = rows.iter().map(Row::value).collect();
            fs::write(&output, serde_json::to_string_pretty(&json!(table))?)
                .with_context(|| format!("cannot write {}", output.display()))?;
        }
    }
    println!("\nfigures: {}\n", shown(&output));
    Row::print(&rows);
    let wrong: Vec<&Row> = rows.iter().filter(|row| !row.wrongs().is_empty()).collect();
    match wrong.len() {
        0 => Ok(()),
        count => bail!("{count} of {} attacks did what they should not", rows.len()),
    }
}
