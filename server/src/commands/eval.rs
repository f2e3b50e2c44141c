//! `arrcoc-serve eval`: what choosing visual tokens is worth on a data set.

use arrcoc_eval::options::EvalOptions;
use arrcoc_runtime::console;
use arrcoc_server::config::Config;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, load, print};
use crate::cli::Eval;

pub(crate) fn run(args: &Eval, mut config: Config) -> Result<(), Failure> {
    config.engine.threads = args.threads.unwrap_or(config.engine.threads);
    config.root()?;
    // Quiet unless asked otherwise: a progress bar is on the screen.
    load::start_quiet_logging(&config);
    let bundle = load::open(&config)?;
    let options = EvalOptions {
        data: args.data.clone(),
        arms: args.arms.clone(),
        budgets: args.budgets.clone(),
        positions: args.positions.clone(),
        limit: args.limit,
        grid_neck: args.grid_neck.clone(),
        seed: args.seed,
        max_tokens: args.max_tokens,
        output: args.output.clone(),
    };
    // On a terminal only.
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{pos}/{len} rows {wide_bar} {elapsed}, {eta} left")?);
    let mut begun = false;
    let finished = arrcoc_eval::run(&bundle, &config.options(), &options, |done, rows| {
        bar.set_length(rows as u64);
        bar.set_position(done as u64);
        if !std::mem::replace(&mut begun, true) {
            // What an earlier run did is no measure of this one's speed.
            bar.reset_eta();
        }
    });
    bar.finish_and_clear();
    let finished = finished?;
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(&finished.summary)?),
        false => finished.page,
    };
    console::note(&format!("written to {}", args.output.display()));
    Ok(print(&text)?)
}
