//! `eval.md`: the figures as tables.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::arms::{Arm, Method, Positions};

use super::super::bootstrap::Interval;
use super::super::journal::Header;
use super::super::options::Tokens;
use super::super::summary::{
    BASELINES, BINS, Cell, Claim, DENSE_BUDGET, DENSE_RATIO, DenseBudget, Difference, ENOUGH_PAIRS, Room,
    Scope, Summary, Verdict,
};
use super::super::times::stage_names;

/// The whole page.
pub(super) fn page(summary: &Summary) -> String {
    let mut page = head(summary);
    for positions in positions(summary) {
        let name = format!("{positions} positions");
        section(&mut page, &format!("Exact match, {name}"), &exact(summary, positions, None));
        section(&mut page, "Kept of `full`", &of_full(summary, positions));
        section(&mut page, &format!("Differences, {name}"), &differences(summary, positions));
        section(
            &mut page,
            &format!("Exact match by characters per token, {name}"),
            &bins(summary, positions),
        );
        section(&mut page, &format!("What it costs, {name}"), &costs(summary, positions));
        let kinds: BTreeSet<&str> = summary.cells.iter().filter_map(|cell| cell.kind.as_deref()).collect();
        for kind in kinds {
            let title = format!("Exact match, questions of kind `{kind}`, {name}");
            section(&mut page, &title, &exact(summary, positions, Some(kind)));
        }
    }
    section(&mut page, "Left out", &left_out(summary));
    page + &foot(summary)
}

/// A titled part, unless it is empty.
fn section(page: &mut String, title: &str, text: &str) {
    if !text.is_empty() {
        *page += &format!("\n## {title}\n\n{text}");
    }
}

fn head(summary: &Summary) -> String {
    let about = &summary.about;
    let mut text = format!(
        "# {} on {}\n\n{} questions about {} images. Shares of right answers in percent, with 95% intervals of a bootstrap \
         over images ({} resamples). Questions about one place unless a kind is named.\n\n![curves](curves.svg)\n",
        about.model, about.data, summary.questions, summary.images, summary.resamples
    );
    for claim in &summary.claims {
        text += &verdict(claim);
    }
    text
}

/// What became of the claim, against which baselines and over what.
fn verdict(claim: &Claim) -> String {
    let verdict = match claim.verdict {
        Verdict::Holds => "holds",
        Verdict::DoesNotHold => "does not hold",
        Verdict::NotTested => "is not tested",
    };
    let mut text = format!(
        "\nThe claim that was registered beforehand, that choosing by the question beats every other way to make few \
         tokens ({}) on dense pages (at least {DENSE_RATIO} characters per token, budgets up to {DENSE_BUDGET}), \
         **{verdict}** here with {} positions. It holds where all of these were run, each over at least {ENOUGH_PAIRS} \
         pairs, and every interval lies above 0.\n\n",
        list(BASELINES.iter().map(Arm::to_string)),
        claim.positions,
    );
    for one in &claim.against {
        let _ = writeln!(text, "- {} against {}, over {} pairs", signed(one.exact), one.against, one.pairs);
    }
    for arm in &claim.missing {
        let _ = writeln!(text, "- nothing against {arm}: no row was answered with both");
    }
    let of = |one: &DenseBudget| {
        format!("{} ({} questions, at least {} pairs with each)", one.budget, one.questions, one.pairs)
    };
    let _ = writeln!(text, "- there are dense pages at budgets {}", list(claim.budgets.iter().map(of)));
    text
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn positions(summary: &Summary) -> BTreeSet<Positions> {
    summary.cells.iter().map(|cell| cell.positions).collect()
}

/// A row per arm, a column per budget.
fn exact(summary: &Summary, positions: Positions, kind: Option<&str>) -> String {
    let cells: Vec<&Cell> = summary.of_kind(kind).filter(|cell| cell.positions == positions).collect();
    let budgets: BTreeSet<Tokens> = cells.iter().map(|cell| cell.budget).collect();
    if cells.is_empty() {
        return String::new();
    }
    let mut text = row(std::iter::once("arm".to_owned()).chain(budgets.iter().map(Tokens::to_string)));
    text += &rule(1 + budgets.len());
    for arm in cells.iter().map(|cell| cell.arm).collect::<BTreeSet<_>>() {
        let of = |budget: &Tokens| {
            let cell = cells.iter().find(|cell| cell.arm == arm && cell.budget == *budget);
            cell.map_or_else(String::new, |cell| percent(cell.exact))
        };
        text += &row(std::iter::once(arm.to_string()).chain(budgets.iter().map(of)));
    }
    text
}

/// What few tokens keep of the right answers that all tokens give; nothing of a composite, whose decoder
/// leans on its allocator.
fn of_full(summary: &Summary, positions: Positions) -> String {
    let full = Arm::of(Method::Full);
    let cells = || summary.of_kind(None).filter(|cell| cell.positions == positions);
    let Some(all) = cells().find(|cell| cell.arm == full && cell.exact.mean > 0.0) else {
        return String::new();
    };
    if summary.about.room.is_some() {
        return String::new();
    }
    let mut text = "Exact match and tokens, in percent of those of `full`.\n\n".to_owned();
    text += &row(["arm", "budget", "exact match", "tokens"].map(str::to_owned));
    text += &rule(4);
    for cell in cells().filter(|cell| cell.arm != full) {
        let [exact, tokens] = [cell.exact.mean / all.exact.mean, cell.tokens / all.tokens]
            .map(|share| format!("{:.1}", 100.0 * share));
        text += &row([cell.arm.to_string(), cell.budget.to_string(), exact, tokens]);
    }
    text
}

fn differences(summary: &Summary, positions: Positions) -> String {
    let held: Vec<&Difference> =
        summary.differences.iter().filter(|one| one.positions == positions).collect();
    if held.is_empty() {
        return String::new();
    }
    let mut text = match summary.about.room {
        Some(_) => {
            "In points of exact match; the best of the baselines is set in bold. Against `first_question`, second \
             questions are compared; elsewhere questions about one place.\n\n"
        }
        None => "In points of exact match, on the same questions; `full` has all tokens at every budget.\n\n",
    }
    .to_owned();
    text += &row(["over", "arm", "against", "exact match", "character errors", "pairs"].map(str::to_owned));
    text += &rule(6);
    for one in held {
        let over = match one.scope {
            Scope::Budget(budget) => format!("budget {budget}"),
            Scope::Dense => "dense pages".to_owned(),
            Scope::DenseBudget(budget) => format!("dense pages, budget {budget}"),
        };
        let against =
            if one.best_baseline { format!("**{}**", one.against) } else { one.against.to_string() };
        let figures = [signed(one.exact), signed(one.cer)];
        let [exact, cer] = figures;
        text += &row([over, one.arm.to_string(), against, exact, cer, one.pairs.to_string()]);
    }
    text
}

fn bins(summary: &Summary, positions: Positions) -> String {
    let bins = || summary.bins.iter().filter(|bin| bin.positions == positions);
    let seen: BTreeSet<usize> = bins().map(|bin| bin.bin).collect();
    if seen.is_empty() {
        return String::new();
    }
    let mut text =
        row(std::iter::once("arm".to_owned()).chain(seen.iter().map(|&bin| BINS[bin].0.to_owned())));
    text += &rule(1 + seen.len());
    for arm in bins().map(|bin| bin.arm).collect::<BTreeSet<_>>() {
        let of = |at: &usize| {
            let bin = bins().find(|bin| bin.arm == arm && bin.bin == *at);
            bin.map_or_else(String::new, |bin| percent(bin.exact))
        };
        text += &row(std::iter::once(arm.to_string()).chain(seen.iter().map(of)));
    }
    text
}

fn costs(summary: &Summary, positions: Positions) -> String {
    let cells: Vec<&Cell> = summary.of_kind(None).filter(|cell| cell.positions == positions).collect();
    if cells.is_empty() {
        return String::new();
    }
    let stages = stage_names(cells.iter().map(|cell| &cell.ms));
    let chooses = match summary.about.room {
        Some(_) => "`allocator` is the making of relevances, whatever makes them",
        None => "`select` is the choosing of tokens, whatever chooses them",
    };
    let mut text = format!(
        "Times are medians in milliseconds. An image is encoded once for all arms and questions; {chooses}. Answers are \
         decoded side by side, and `decode_per_token` is an answer's share of that. KV is the memory of a prompt's keys \
         and values.\n\n"
    );
    let head = ["arm", "budget", "tokens", "character errors", "answer's patches kept"];
    let titles = head.iter().chain(&stages).chain(&["KV"]);
    text += &row(titles.map(|title| (*title).to_owned()));
    text += &rule(head.len() + stages.len() + 1);
    for cell in cells {
        let head = [
            cell.arm.to_string(),
            cell.budget.to_string(),
            format!("{:.0}", cell.tokens),
            percent(cell.cer),
            cell.recall.map_or_else(String::new, percent),
        ];
        let times =
            stages.iter().map(|stage| cell.ms.get(stage).map_or_else(String::new, |ms| format!("{ms:.2}")));
        let memory = format!("{:.2} MiB", cell.kv_bytes / f64::from(1 << 20));
        text += &row(head.into_iter().chain(times).chain([memory]));
    }
    text
}

fn left_out(summary: &Summary) -> String {
    let mut text = String::new();
    for one in &summary.left_out {
        let budget = one.budget.map_or_else(String::new, |budget| format!(" at {budget}"));
        let rows = one.rows.map_or_else(String::new, |rows| format!(" for {rows} rows"));
        let _ = writeln!(text, "- {}{budget}{rows}: {}", one.arm, one.reason);
    }
    for one in &summary.skipped {
        let _ = writeln!(text, "- row {}, `{}`: {}", one.row, one.image, one.reason);
    }
    text
}

fn foot(summary: &Summary) -> String {
    let (run, about, at) = (&summary.run, &summary.about, &summary.circumstances);
    let mut text = "\n## How it was taken\n\n".to_owned();
    if let Some(room) = &about.room {
        text += &composite(run, room);
    }
    let peak = at.peak_bytes.map_or_else(String::new, |bytes| format!("; peak memory {} MiB", bytes >> 20));
    let pixels = run.configuration.image_size.map_or_else(String::new, |size| format!(" at {size} pixels"));
    let _ = writeln!(
        text,
        "- {}, {}{pixels}, {}; {} answers side by side, at most {} tokens each, seed {}{peak}.",
        run.tool,
        about.flavour,
        run.configuration.runtime,
        run.configuration.slots,
        run.configuration.max_tokens,
        run.configuration.seed,
    );
    let _ = writeln!(
        text,
        "- bundle {}, checkpoint {}, data {}.",
        short(&run.bundle_sha256),
        short(&about.checkpoint_sha256),
        short(&run.data_sha256)
    );
    let _ = writeln!(
        text,
        "- {} cores of {} ({}), by `arrcoc-serve {}`.",
        at.cores,
        if at.cpu.is_empty() { "an unknown CPU" } else { &at.cpu },
        at.cpu_features.join(" "),
        at.command.join(" ")
    );
    text + "\nAll values: [eval.json](eval.json); every answer: [answers.jsonl](answers.jsonl).\n"
}

/// What is to be known of a composite's arms.
fn composite(run: &Header, room: &Room) -> String {
    let mut text = String::new();
    let has = |method: Method| run.configuration.arms.0.contains(&Arm::of(method));
    if has(Method::Full) && room.patches > room.most_fine {
        let _ = writeln!(
            text,
            "- `full` is not full: of {} patches the compressor takes the first {}, the upper part of the image.",
            room.patches, room.most_fine
        );
    }
    if has(Method::Grid) {
        let neck = match &run.grid_neck_sha256 {
            Some(sha256) => format!("has a trained neck ({})", short(sha256)),
            None => "has no trained neck: plain means take its place".to_owned(),
        };
        let _ = writeln!(text, "- `grid` {neck}.");
    }
    if has(Method::Grid) || has(Method::Downsampled) {
        let _ = writeln!(
            text,
            "- `grid` and `downsampled` get the {} gist tokens on top of the largest square of cells within a budget; the \
             table of costs has what they had. On pictures that are not square, some of these cells are padding.",
            room.gist_cells
        );
    }
    text
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    // A bar would end the cell.
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn rule(columns: usize) -> String {
    format!("|{}\n", "---|".repeat(columns))
}

fn percent(Interval { mean, low, high }: Interval) -> String {
    format!("{:.1} [{:.1}, {:.1}]", 100.0 * mean, 100.0 * low, 100.0 * high)
}

fn signed(Interval { mean, low, high }: Interval) -> String {
    format!("{:+.1} [{:+.1}, {:+.1}]", 100.0 * mean, 100.0 * low, 100.0 * high)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::journal::tests::answer;
    use super::super::super::summary::tests::summary;
    use super::*;

    #[test]
    fn the_page_says_it_all() {
        let mut answers = Vec::new();
        for arm in [Method::QueryAware, Method::Grid] {
            for row in 0..4 {
                let mut line = answer(row, arm, 64, arm == Method::QueryAware);
                line.characters = Some(700.0);
                line.kind = Some("a|b".into());
                // A stage that nobody has heard of, and one that some arms go without.
                line.ms.add("new_graph", Duration::from_millis(3));
                if arm == Method::Grid {
                    line.ms.add("prefill", Duration::from_millis(5));
                }
                answers.push(line);
            }
        }
        let page = page(&summary(answers));
        for part in [
            "4 questions about 4 images",
            "**is not tested** here with original positions",
            "- +100.0 [+100.0, +100.0] against grid, over 4 pairs",
            "- nothing against downsampled",
            "- nothing against agnostic",
            "budgets 64 (4 questions, at least 0 pairs with each)",
            "| dense pages, budget 64 | query_aware | **grid** |",
            "| query_aware | 100.0 [100.0, 100.0] |",
            "| budget 64 | query_aware | **grid** |",
            "| arm | 10-20 |",
            "questions of kind `a|b`",
            "| answer's patches kept | new_graph | prefill | KV |",
            "|  | 3.00 |  | 0.01 MiB |",
            "|  | 3.00 | 5.00 | 0.01 MiB |",
            "plain means",
        ] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
        assert!(!page.contains("**holds**"), "{page}");
        // Every row of a table has as many cells as its rule.
        for table in page.split("\n\n").filter(|part| part.starts_with('|')) {
            let bars = |line: &str| line.replace("\\|", "").matches('|').count();
            let widths: BTreeSet<usize> = table.lines().map(bars).collect();
            assert_eq!(widths.len(), 1, "{table}");
        }
    }
}
