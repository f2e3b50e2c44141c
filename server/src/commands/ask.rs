//! `arrcoc-serve ask`: one question, one answer, and an account of where time and tokens went.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use arrcoc_runtime::generate::{
    Allocation, Conversation, Event, FinishReason, Form, Image, JsonStyle, MaxTokens, Message, Part, Prompt,
    PromptReport, Reason, Receipt, Request, Sampling, Selected, Selection, Sizing, Speaker, Timings, Usage,
};
use arrcoc_runtime::model::ModelInfo;
use arrcoc_server::config::Config;
use arrcoc_server::openai;
use arrcoc_server::openai::explanation::Explanation;
use axum::body::Bytes;
use serde_json::{Value, json};

use super::{Failure, load, picture, print};
use crate::cli::Ask;

/// Longest answer unless `--max-tokens` says otherwise.
const MAX_TOKENS: usize = 256;

struct Answer {
    text: String,
    /// What the model thought before.
    reasoning: String,
    reason: FinishReason,
    receipts: Vec<Receipt>,
    usage: Usage,
    timings: Timings,
}

pub(crate) fn run(ask: &Ask, config: &Config) -> Result<(), Failure> {
    config.root()?;
    // Quiet unless asked otherwise: the answer is what the user wants to see.
    load::start_quiet_logging(config);
    let images = ask.image.iter().map(|path| read_image(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let form = form(ask)?;
    let model = load::model(config, load::open(config)?)?;
    let mut answers = Vec::new();
    for _ in 0..ask.repeat.get() {
        let mut generation = model.submit(request(ask, model.info(), &images, form.clone()))?;
        answers.push(collect(&mut generation.events)?);
    }
    let times = median_times(&answers);
    let of = |time: fn(&Timings) -> Duration| {
        Duration::from_secs_f64(median(answers.iter().map(|answer| time(&answer.timings).as_secs_f64())))
    };
    let (first_token, total) = (of(|timings| timings.first_token), of(|timings| timings.total));
    let answer = answers.pop().context("a question is asked at least once")?;
    let answer = Answer { timings: Timings { first_token, total, ..answer.timings }, ..answer };
    if let (Some(path), Some(image), Some(receipt)) = (&ask.picture, images.first(), answer.receipts.first())
    {
        let picture = picture::draw(image, receipt).context("cannot draw over the image")?;
        picture.save(path).with_context(|| format!("cannot write the picture {}", path.display()))?;
    }
    let text =
        if ask.json { format!("{:#}\n", to_json(&answer, &times)) } else { to_text(ask, &answer, &times) };
    Ok(print(&text)?)
}

fn read_image(path: &Path) -> anyhow::Result<Bytes> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the image {}", path.display()))?;
    Ok(bytes.into())
}

/// What the answer must look like.
fn form(ask: &Ask) -> anyhow::Result<Option<Form>> {
    if let Some(expression) = &ask.regex {
        return Ok(Some(Form::Regex(expression.clone())));
    }
    let Some(path) = &ask.json_schema else { return Ok(None) };
    let text = std::fs::read(path).with_context(|| format!("cannot read the schema {}", path.display()))?;
    let schema = serde_json::from_slice(&text);
    let schema = schema.with_context(|| format!("expected JSON in the schema {}", path.display()))?;
    Ok(Some(Form::Json { schema, style: JsonStyle::default() }))
}

fn request(ask: &Ask, info: &ModelInfo, images: &[Bytes], form: Option<Form>) -> Request {
    let defaults = &info.generation;
    let sampling = Sampling::of(defaults);
    let sizing = Sizing { skip_blank: ask.skip_blank, ..Sizing::default() };
    let images = images.iter().map(|file| Part::Image(Image { file: file.clone(), sizing }));
    let content = images.chain([Part::Text(ask.question.clone())]).collect();
    let messages = vec![Message::new(Speaker::User, content)];
    let selection = Selection { selector: ask.selector, depth: ask.depth, tensions: None };
    let budget = ask.budget.unwrap_or_else(|| selection.budget(info.default_budget));
    let thinking = ask.thinking.map(|thinking| ("enable_thinking".to_owned(), thinking.into()));
    let variables = thinking.into_iter().collect();
    Request {
        prompt: Prompt::Chat(Conversation { messages, variables, ..Conversation::default() }),
        budget,
        selection,
        explain: true,
        sampling: Sampling {
            temperature: ask.temperature.unwrap_or(sampling.temperature),
            seed: ask.seed,
            ..sampling
        },
        choices: 1,
        max_tokens: ask
            .max_tokens
            .map_or(MaxTokens::AtMost(MAX_TOKENS), MaxTokens::Exactly)
            .limited_by(defaults),
        stop: Vec::new(),
        top_logprobs: None,
        prompt_report: PromptReport::Nothing,
        form,
    }
}

fn collect(events: &mut tokio::sync::mpsc::UnboundedReceiver<Event>) -> anyhow::Result<Answer> {
    let (mut text, mut reasoning) = (String::new(), String::new());
    let (mut reason, mut all_receipts) = (FinishReason::Length, Vec::new());
    while let Some(event) = events.blocking_recv() {
        match event {
            Event::Started { receipts, .. } => all_receipts = receipts,
            Event::Token { text: more, reasoning: thought, .. } => {
                text.push_str(&more);
                reasoning.push_str(thought.as_deref().unwrap_or_default());
            }
            Event::Finished { text: more, reasoning: thought, reason: why, .. } => {
                text.push_str(&more);
                reasoning.push_str(thought.as_deref().unwrap_or_default());
                reason = why;
            }
            Event::Done { usage, timings } => {
                return Ok(Answer { text, reasoning, reason, receipts: all_receipts, usage, timings });
            }
            Event::Prompt { .. } => {}
            Event::Failed(error) => return Err(error.into()),
        }
    }
    bail!("the engine ended without an answer")
}

/// Time per stage, in the order in which stages first ran: a decode step runs once per token, the encoder
/// once per image.
#[derive(Clone)]
struct StageTime {
    name: String,
    runs: usize,
    seconds: f64,
}

fn stage_times(timings: &Timings) -> Vec<StageTime> {
    let mut times: Vec<StageTime> = Vec::new();
    for (stage, took) in &timings.stages {
        let (name, seconds) = (stage.name(), took.as_secs_f64());
        match times.iter_mut().find(|time| time.name == name) {
            Some(time) => {
                time.runs += 1;
                time.seconds += seconds;
            }
            None => times.push(StageTime { name: name.to_owned(), runs: 1, seconds }),
        }
    }
    times
}

/// The median of each stage over several answers; the stages are those of the last one.
fn median_times(answers: &[Answer]) -> Vec<StageTime> {
    let all: Vec<Vec<StageTime>> = answers.iter().map(|answer| stage_times(&answer.timings)).collect();
    let of =
        |name: &str| median(all.iter().flatten().filter(|time| time.name == name).map(|time| time.seconds));
    let last = all.last().into_iter().flatten();
    last.map(|time| StageTime { seconds: of(&time.name), ..time.clone() }).collect()
}

/// The middle of several numbers, or the mean of the two in the middle; 0 of none.
fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.get(numbers.len().saturating_sub(1) / 2..=numbers.len() / 2).unwrap_or_default();
    middle.iter().sum::<f64>() / middle.len().max(1) as f64
}

fn to_json(answer: &Answer, times: &[StageTime]) -> Value {
    let stages = times.iter();
    let stages: Vec<Value> = stages
        .map(|StageTime { name, runs, seconds }| json!({"stage": name, "runs": runs, "seconds": seconds}))
        .collect();
    json!({
        "answer": answer.text,
        "reasoning": answer.reasoning,
        "finish_reason": if answer.reason == FinishReason::Stop { "stop" } else { "length" },
        "usage": openai::Usage::from(answer.usage),
        "seconds": {
            "first_token": answer.timings.first_token.as_secs_f64(),
            "total": answer.timings.total.as_secs_f64(),
            "stages": stages,
        },
        "arrcoc": Explanation::from(answer.receipts.as_slice()),
    })
}

fn to_text(ask: &Ask, answer: &Answer, times: &[StageTime]) -> String {
    let mut text = String::new();
    if !answer.reasoning.is_empty() {
        text += &format!("it thought:\n{}\n\nit answers:\n", answer.reasoning.trim_end());
    }
    text += &format!("{}\n\n", answer.text.trim_end());
    for (path, receipt) in ask.image.iter().zip(&answer.receipts) {
        text += &format!("{}: {} visual tokens", path.display(), receipt.tokens);
        if let Some(Allocation { tier, tension_weights, .. }) = &receipt.allocation {
            let [propositional, perspectival, participatory] = tension_weights;
            text += &format!(
                " (tier {tier}); weighed propositional {propositional:.2}, perspectival {perspectival:.2}, \
                 participatory {participatory:.2}"
            );
        }
        if let Some(selected) = &receipt.selected {
            text += &chosen(selected);
        }
        text.push('\n');
    }
    let usage = answer.usage;
    text += &format!("{} prompt tokens, {} generated\n\n", usage.prompt_tokens, usage.completion_tokens);
    for StageTime { name, runs, seconds } in times {
        let times = if *runs == 1 { String::new() } else { format!("  ({runs} runs)") };
        text += &format!("{name:<16}{seconds:>9.3} s{times}\n");
    }
    let total = answer.timings.total.as_secs_f64();
    text += &format!("{:<16}{total:>9.3} s\n", "total");
    if let Some(path) = &ask.picture {
        text += &format!("\nwhere the tokens went: {}\n", path.display());
    }
    text
}

/// How tokens were chosen, and why so many.
fn chosen(selected: &Selected) -> String {
    let Selected { selector, of, reason, .. } = selected;
    let reason = match reason {
        Reason::Asked => "as asked".to_owned(),
        Reason::Concentration(tokens) => format!("relevance lies on about {tokens:.0}"),
        Reason::Need(need) => format!("the question asks for {}", need.name()),
    };
    format!(" of {of}, chosen by {selector}: {reason}")
}

#[cfg(test)]
mod tests {
    use arrcoc_runtime::generate::Stage;

    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        let of = |numbers: &[f64]| median(numbers.iter().copied());
        assert_eq!((of(&[]), of(&[3.0]), of(&[4.0, 1.0]), of(&[9.0, 1.0, 2.0])), (0.0, 3.0, 2.5, 2.0));
    }

    #[test]
    fn repeated_stages_are_summed_in_order() {
        let took = Duration::from_millis(250);
        let stages = vec![(Stage::PREFILL, took), (Stage::DECODE_STEP, took), (Stage::DECODE_STEP, took)];
        let times = stage_times(&Timings { stages, ..Timings::default() });
        let summary: Vec<_> = times.iter().map(|time| (time.name.clone(), time.runs, time.seconds)).collect();
        assert_eq!(summary, [("prefill".to_owned(), 1, 0.25), ("decode_step".to_owned(), 2, 0.5)]);
    }
}
