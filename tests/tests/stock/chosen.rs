//! Some rows of a picture instead of all: what transformers answers when nothing may look at the others.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrcoc_bundle::{Bundle, Target};
use arrcoc_runtime::generate::{
    Budget, Depth, Event, MaxTokens, NoObserver, Part, Place, Prompt, Receipt, Request, Selection, Selector,
    Share,
};
use arrcoc_runtime::library::LibraryKind;
use arrcoc_runtime::model::{self, Generation, Model};
use arrcoc_tests::repository;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::checkpoint::{self, Golden};
use crate::{CLOSE, furthest, joined, replay_all, replay_drawn, tapped};

/// How far a run without the other rows strays from one that masks them, logits, absolute.
const MASKED: f32 = 1e-4;
/// Tokens of an answer.
const TOKENS: usize = 12;

#[test]
fn kept_rows_are_read_as_if_the_others_were_masked() -> Result<()> {
    replay_all(&repository("tests/fixtures/stock"), "chosen.json", |dir, target, library| {
        within(MASKED, replay(dir, target, library)?)
    })
}

#[test]
fn drawn_checkpoints_read_kept_rows_as_if_the_others_were_masked() -> Result<()> {
    replay_drawn("chosen.json", |dir, target, library| within(CLOSE, replay(dir, target, library)?))
}

fn within(close: f32, worst: f32) -> Result<f32> {
    ensure!(worst <= close, "logits are off by {worst:.1e}");
    Ok(worst)
}

/// Replays the conversations of a checkpoint with some rows kept; the largest difference of a logit.
fn replay(dir: &Path, target: Target, library: LibraryKind) -> Result<f32> {
    let (model, recording, _scratch) = tapped(dir, target, library)?;
    let cases: Value = serde_json::from_slice(&fs::read(dir.join("cases.json"))?)?;
    let chosen: Value = serde_json::from_slice(&fs::read(dir.join("chosen.json"))?)?;
    let (plain, logits) =
        (fs::read(dir.join("cases.safetensors"))?, fs::read(dir.join("chosen.safetensors"))?);
    let logits = SafeTensors::deserialize(&logits)?;
    let share = Share::new(chosen["share"].as_f64().context("no share")?).context("no share")?;
    let mut worst = 0.0f32;
    for entry in chosen["cases"].as_array().context("no cases")? {
        let cases = cases["cases"].as_array().context("no cases")?;
        let case = cases.iter().find(|case| case["name"] == entry["name"]).context("no such case")?;
        let golden = Golden { case, tensors: SafeTensors::deserialize(&plain)? };
        let wanted = logits.tensor(golden.name())?;
        let steps = wanted.shape()[0];
        let selection = Selection { selector: Some(Selector::Uniform), ..Selection::default() };
        let request = Request { budget: Budget::Share(share), selection, ..golden.request(dir, steps)? };
        recording.take();
        let (tokens, receipts) = answer(model.submit(request)?)?;
        let calls = recording.take();
        check_answer(entry, &tokens, &receipts).with_context(|| golden.name().to_owned())?;
        let found = joined(&calls, "decoder", |call| &call.outputs, "logits")?;
        let found = found.get(found.len().saturating_sub(steps)..).unwrap_or_default();
        ensure!(found.len() == steps, "expected {steps} steps, found {}", found.len());
        let wanted: Vec<f32> =
            wanted.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        for (found, wanted) in found.iter().zip(wanted.chunks_exact(wanted.len() / steps)) {
            worst = worst.max(furthest(found, wanted)?);
        }
    }
    Ok(worst)
}

/// Holds the rows that were kept and the tokens against the golden's. The last token may be one that rounding
/// could change, and is not in it then.
fn check_answer(entry: &Value, tokens: &Answer, receipts: &[Receipt]) -> Result<()> {
    let numbers = |list: &Value| -> Vec<u64> {
        list.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
    };
    let kept: Vec<_> = entry["kept"].as_array().into_iter().flatten().map(numbers).collect();
    let found: Vec<_> = receipts.iter().map(kept_rows).collect();
    ensure!(found == kept, "expected the rows {kept:?}, found {found:?}");
    let greedy = numbers(&entry["greedy"]);
    let found: Vec<u64> = tokens.iter().take(greedy.len()).map(|(id, _)| u64::from(*id)).collect();
    ensure!(found == greedy, "expected the tokens {greedy:?}, found {found:?}");
    Ok(())
}

/// Which rows of a picture were kept, told from the places of all.
fn kept_rows(receipt: &Receipt) -> Vec<u64> {
    let mut all: Vec<_> = receipt.places.iter().map(|place| (place.cell, true)).collect();
    all.extend(receipt.dropped.iter().map(|place| (place.cell, false)));
    all.sort_by_key(|(cell, _)| *cell);
    all.iter().enumerate().filter(|(_, (_, kept))| *kept).map(|(row, _)| row as u64).collect()
}

#[test]
fn keeping_all_changes_no_bit_and_neighbours_keep_what_they_would_alone() -> Result<()> {
    for entry in fs::read_dir(repository("tests/fixtures/stock"))? {
        let dir = entry?.path();
        let scratch = tempfile::tempdir()?;
        checkpoint::build(&dir, Target::Cpu, scratch.path())?;
        let bundle = scratch.path().join("drawn/fp32-cpu");
        let cases: Value = serde_json::from_slice(&fs::read(dir.join("cases.json"))?)?;
        let tensors = fs::read(dir.join("cases.safetensors"))?;
        let options = model::Options { slots: 8, ..checkpoint::options() };
        let library = LibraryKind::Ort.open(2)?;
        let model = Model::load_on(Bundle::open(&bundle)?, library.as_ref(), &options, Arc::new(NoObserver))?;
        let mut met = 0;
        for case in cases["cases"].as_array().context("no cases")? {
            let golden = Golden { case, tensors: SafeTensors::deserialize(&tensors)? };
            if golden.floats("pixel_values")?.is_none() {
                continue;
            }
            met += 1;
            let ask = |budget, selector| -> Result<Request> {
                let selection = Selection { selector, ..Selection::default() };
                let request = golden.request(&dir, TOKENS)?;
                Ok(Request { budget, selection, top_logprobs: Some(0), ..request })
            };
            let (full, _) = answer(model.submit(ask(Budget::Full, None)?)?)?;
            let (all, receipts) = answer(model.submit(ask(Budget::Tokens(100_000), None)?)?)?;
            ensure!(all == full, "{}: keeping all is another answer", dir.display());
            ensure!(receipts.iter().all(|receipt| receipt.dropped.is_empty()), "rows were dropped");

            let mut requests = Vec::new();
            for (number, selector) in Selector::ALL.into_iter().enumerate() {
                requests.push((Budget::Tokens(2 + number), Some(selector)));
            }
            requests.push((Budget::Full, None));
            let lonely = requests
                .iter()
                .map(|&(budget, selector)| answer(model.submit(ask(budget, selector)?)?))
                .collect::<Result<Vec<_>>>()?;
            let running = requests
                .iter()
                .map(|&(budget, selector)| Ok(model.submit(ask(budget, selector)?)?))
                .collect::<Result<Vec<_>>>()?;
            for (((together, _), (alone, receipts)), (budget, selector)) in running
                .into_iter()
                .map(answer)
                .collect::<Result<Vec<_>>>()?
                .iter()
                .zip(&lonely)
                .zip(&requests)
            {
                ensure!(
                    together == alone,
                    "{} {budget} {selector:?}: another answer in company",
                    dir.display()
                );
                if let Budget::Tokens(tokens) = budget {
                    let within = |receipt: &Receipt| {
                        receipt.places.len() <= *tokens && receipt.tokens == receipt.places.len()
                    };
                    ensure!(receipts.iter().all(within), "more tokens than asked for");
                }
            }
        }
        ensure!(met > 0, "no pictures in {}", dir.display());
    }
    Ok(())
}

#[test]
fn levels_that_are_not_granted_change_the_answer_and_others_refuse_them() -> Result<()> {
    for (family, deep) in [("qwen3_vl", true), ("smolvlm", false)] {
        let dir = repository("tests/fixtures/stock").join(family);
        let scratch = tempfile::tempdir()?;
        let bundle = checkpoint::build(&dir, Target::Cpu, scratch.path())?;
        let library = LibraryKind::Ort.open(2)?;
        let model = Model::load_on(bundle, library.as_ref(), &checkpoint::options(), Arc::new(NoObserver))?;
        ensure!(model.info().depths.is_empty() != deep, "{family}: {:?}", model.info().depths);
        let cases: Value = serde_json::from_slice(&fs::read(dir.join("cases.json"))?)?;
        let tensors = fs::read(dir.join("cases.safetensors"))?;
        let case = &cases["cases"][1];
        let golden = Golden { case, tensors: SafeTensors::deserialize(&tensors)? };
        let ask = |depth| -> Result<Request> {
            let selection = Selection { depth: Some(depth), ..Selection::default() };
            let request = golden.request(&dir, TOKENS)?;
            Ok(Request { budget: Budget::Tokens(6), selection, top_logprobs: Some(0), ..request })
        };
        if !deep {
            let refused =
                model.submit(ask(Depth::Relevant)?).err().context("expected a refusal")?.to_string();
            ensure!(refused.contains("no rows for deeper layers"), "{refused}");
            continue;
        }
        let (all, receipts) = answer(model.submit(ask(Depth::All)?)?)?;
        let levels = |receipts: &[Receipt]| -> Vec<_> {
            receipts[0].places.iter().map(|place| place.layers.unwrap_or_default()).collect()
        };
        let most = levels(&receipts)[0];
        ensure!(
            most > 1 && levels(&receipts).iter().all(|&levels| levels == most),
            "{:?}",
            levels(&receipts)
        );
        let (some, receipts) = answer(model.submit(ask(Depth::Relevant)?)?)?;
        let shallow = levels(&receipts).iter().filter(|&&levels| levels == 1).count();
        ensure!(shallow == levels(&receipts).len() / 2, "{:?}", levels(&receipts));
        ensure!(some != all, "the levels were never added");
    }
    Ok(())
}

/// Kept rows stand where they stood, and no position may be beyond those that the context has: an answer ends
/// where it would end with all rows, and what does not fit is refused.
#[test]
fn positions_end_where_the_context_does() -> Result<()> {
    for family in ["qwen3_vl", "smolvlm"] {
        let dir = repository("tests/fixtures/stock").join(family);
        let scratch = tempfile::tempdir()?;
        let bundle = checkpoint::build(&dir, Target::Cpu, scratch.path())?;
        let cases: Value = serde_json::from_slice(&fs::read(dir.join("cases.json"))?)?;
        let tensors = fs::read(dir.join("cases.safetensors"))?;
        let golden = Golden { case: &cases["cases"][1], tensors: SafeTensors::deserialize(&tensors)? };
        let prompt = golden.ids("input_ids").len();
        let context = prompt + 9;
        let options = model::Options { context_length: Some(context), ..checkpoint::options() };
        let library = LibraryKind::Ort.open(2)?;
        let model = Model::load_on(bundle, library.as_ref(), &options, Arc::new(NoObserver))?;
        let ask = |budget, max_tokens| -> Result<Request> {
            Ok(Request { budget, max_tokens, ..golden.request(&dir, TOKENS)? })
        };
        let long = MaxTokens::AtMost(1000);
        let (full, receipts) = answer(model.submit(ask(Budget::Full, long)?)?)?;
        ensure!(full.len() == 9, "{family}: {} tokens behind all rows", full.len());
        let rows = receipts[0].places.len();
        let (some, _) = answer(model.submit(ask(Budget::Tokens(1), long)?)?)?;
        // As many as the tokens that are saved, where positions allow it.
        let advance = if family == "smolvlm" { rows } else { rows.min(full_advance(&receipts[0])) };
        ensure!(some.len() == 9 + rows - advance.max(1), "{family}: {} tokens behind one row", some.len());
        let more = MaxTokens::Exactly(some.len() + 1);
        let refused = model.submit(ask(Budget::Tokens(1), more)?).err().context("expected a refusal")?;
        ensure!(refused.to_string().contains("positions"), "{family}: {refused}");
    }
    Ok(())
}

/// The longer side of a picture, in rows.
fn full_advance(receipt: &Receipt) -> usize {
    receipt.places.iter().map(|place| 1 + place.cell[1].max(place.cell[2]) as usize).max().unwrap_or(0)
}

/// A white page with something on its upper left eighth, as a PNG.
fn page() -> Result<Vec<u8>> {
    let drawn = |x: u32, y: u32| x < 150 && y < 100 && (x / 3 + y / 2).is_multiple_of(3);
    let ink = |x, y| image::Rgb(if drawn(x, y) { [20, 60, 90] } else { [255; 3] });
    let mut file = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(600, 400, ink).write_to(&mut file, image::ImageFormat::Png)?;
    Ok(file.into_inner())
}

/// Blank tokens and tiles are not encoded, the rest stands where it stood, and a picture without any is the
/// same to the bit.
#[test]
fn blank_parts_are_left_out_before_the_encoder() -> Result<()> {
    for family in ["qwen3_vl", "qwen2_5_vl", "qwen3_5", "smolvlm", "idefics3"] {
        let dir = repository("tests/fixtures/stock").join(family);
        let (model, recording, _scratch) = tapped(&dir, Target::Cpu, LibraryKind::Ort)?;
        let cases: Value = serde_json::from_slice(&fs::read(dir.join("cases.json"))?)?;
        let tensors = fs::read(dir.join("cases.safetensors"))?;
        let golden = Golden { case: &cases["cases"][1], tensors: SafeTensors::deserialize(&tensors)? };
        let ask = |file: Option<&[u8]>, skip_blank, budget| -> Result<Request> {
            let mut request = golden.request(&dir, TOKENS)?;
            let Prompt::Chat(conversation) = &mut request.prompt else { anyhow::bail!("not a chat") };
            let parts = conversation.messages.iter_mut().flat_map(|message| &mut message.content);
            for image in
                parts.filter_map(|part| if let Part::Image(image) = part { Some(image) } else { None })
            {
                image.sizing.skip_blank = skip_blank;
                if let Some(file) = file {
                    image.file = file.to_vec().into();
                }
            }
            Ok(Request { budget, top_logprobs: Some(0), ..request })
        };
        let noisy = answer(model.submit(ask(None, false, Budget::Full)?)?)?.0;
        ensure!(
            answer(model.submit(ask(None, true, Budget::Full)?)?)?.0 == noisy,
            "{family}: nothing was blank"
        );

        let page = page()?;
        let encoded = || -> Result<usize> {
            let calls = recording.take();
            Ok(joined(&calls, "vision_encoder", |call| &call.inputs, "pixel_values")?.concat().len())
        };
        recording.take();
        let (_, whole) = answer(model.submit(ask(Some(&page), false, Budget::Full)?)?)?;
        let all = encoded()?;
        let (_, some) = answer(model.submit(ask(Some(&page), true, Budget::Full)?)?)?;
        let (rows, seen) = (whole[0].places.len(), some[0].places.len());
        ensure!(seen < rows && some[0].dropped.len() == rows - seen, "{family}: {seen} of {rows} rows");
        ensure!(encoded()? * rows == all * seen, "{family}: what is blank was encoded");
        let inked = |place: &Place| place.rect[0] < 150.0 && place.rect[1] < 100.0;
        ensure!(!some[0].dropped.iter().any(inked), "{family}: a place with something on it was left out");
        let (_, chosen) = answer(model.submit(ask(Some(&page), true, Budget::Tokens(2))?)?)?;
        ensure!(
            (chosen[0].tokens, chosen[0].dropped.len()) == (2, rows - 2),
            "{family}: {:?}",
            chosen[0].selected
        );
    }
    Ok(())
}

/// Every token of an answer, and the bits of its logarithmic probability.
type Answer = Vec<(u32, u32)>;

/// An answer and the receipts of its pictures.
fn answer(mut generation: Generation) -> Result<(Answer, Vec<Receipt>)> {
    let (mut tokens, mut found) = (Vec::new(), Vec::new());
    while let Some(event) = generation.events.blocking_recv() {
        match event {
            Event::Started { receipts, .. } => found = receipts,
            Event::Token { id, logprob, .. } => {
                tokens.push((id, logprob.map_or(0, |found| found.token.logprob.to_bits())));
            }
            Event::Failed(error) => anyhow::bail!("{error}"),
            _ => {}
        }
    }
    Ok((tokens, found))
}
