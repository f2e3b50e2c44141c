//! `arrcoc-serve perplexity`: how surprised a bundle is by a text, and so what a precision costs.

use anyhow::{Context, bail};
use arrcoc_bundle::small;
use arrcoc_eval::perplexity::{Source, perplexity};
use arrcoc_server::config::Config;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, load, print};
use crate::cli::Perplexity;

pub(crate) fn run(args: &Perplexity, mut config: Config) -> Result<(), Failure> {
    config.engine.threads = args.threads.unwrap_or(config.engine.threads);
    config.root()?;
    // Quiet unless asked otherwise: a progress bar is on the screen.
    load::start_quiet_logging(&config);
    let bundle = load::open(&config)?;
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{pos}/{len} windows {wide_bar} {elapsed}, {eta} left")?);
    let found = perplexity(&bundle, &config.options(), source(args)?, args.last, |done, windows| {
        bar.set_length(windows as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let found = found?;
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(&found)?),
        false => format!(
            "perplexity {:.4} over {} tokens, of which {} are the likeliest\n",
            found.perplexity, found.tokens, found.likeliest
        ),
    };
    Ok(print(&text)?)
}

/// Longest text that is read.
const MOST_BYTES: u64 = 1 << 30;

fn source(args: &Perplexity) -> anyhow::Result<Source> {
    let read = |path: &std::path::Path| {
        let bytes =
            small::read(path, MOST_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
        String::from_utf8(bytes).with_context(|| format!("expected UTF-8 in {}", path.display()))
    };
    match (&args.windows, args.text.as_slice()) {
        (Some(windows), []) => {
            let parsed: serde_json::Value = serde_json::from_str(&read(windows)?)
                .with_context(|| format!("{} is no JSON", windows.display()))?;
            let list = if parsed.is_object() { parsed.get("windows") } else { Some(&parsed) };
            let list = list.with_context(|| format!("expected a key `windows` in {}", windows.display()))?;
            let windows = serde_json::from_value(list.clone())
                .with_context(|| format!("expected lists of token ids in {}", windows.display()))?;
            Ok(Source::Windows(windows))
        }
        (None, files @ [_, ..]) => {
            let texts: Vec<String> = files.iter().map(|file| read(file)).collect::<Result<_, _>>()?;
            Ok(Source::Text { text: texts.join("\n"), window: args.window })
        }
        (None, []) => bail!("expected text files or --windows, found neither"),
        _ => bail!("expected text files or --windows, found both"),
    }
}
