//! `cargo xtask demo`: from nothing to two answers about a page, with every step said and timed.

mod report;
mod server;
mod subject;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::bundles::{Build, Programs};
use crate::onnxruntime;
use crate::shell::{self, section, shown};
use server::Server;
use subject::{Question, Subject};

const MAX_TOKENS: u64 = 32;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Picture to ask about [default: a page of records, or a photograph for a random checkpoint]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// What to ask; may be given several times
    #[arg(long, value_name = "TEXT")]
    question: Vec<String>,
    /// Use random weights of this shape, a preset of `arrcoc-export init`, in place of the repository's
    /// trained checkpoint; arr-coc-ovis-base takes minutes, 6 GB of disk and as much memory
    #[arg(long)]
    preset: Option<String>,
    /// Leave the server running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Inference library [default: ort where ONNX Runtime can be had, else tract]
    #[arg(long, value_enum)]
    runtime: Option<Runtime>,
}

/// What runs the graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Runtime {
    /// ONNX Runtime
    Ort,
    /// tract, in pure Rust: slower, the same answers
    Tract,
}

impl Runtime {
    /// Its name on the server's command line.
    fn name(self) -> &'static str {
        match self {
            Self::Ort => "ort",
            Self::Tract => "tract",
        }
    }

    /// The bundles that it is best at.
    fn target(self) -> &'static str {
        match self {
            Self::Ort => "cpu",
            Self::Tract => "portable",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let subject = Subject::new(args.preset.as_deref(), args.image.as_deref(), &args.question);
    let picture = &subject.picture;
    let image = fs::read(picture).with_context(|| format!("cannot read the image {}", picture.display()))?;
    let dir = shell::target("demo");
    fs::create_dir_all(&dir)?;

    let title = "1. build arrcoc-export and arrcoc-serve, optimised (minutes the first time)";
    let programs = section(title, || Programs::build(true))?;
    let (runtime, library) = section("2. ONNX Runtime", || choose(args.runtime))?;
    let checkpoint = section("3. a checkpoint in Hugging Face form", || subject.checkpoint(&programs, &dir))?;
    let bundle = section("4. export it to an engine bundle", || {
        let build = Build { target: runtime.target(), ..Build::cpu(&subject.model, "fp32") };
        programs.bundle(&checkpoint, &dir.join("engines"), &build)
    })?;
    let server = section("5. serve it", || {
        Server::start(&programs, &bundle, runtime.name(), library.as_deref(), &dir.join("server.log"))
    })?;
    println!("\nimage: {}", shown(picture));
    for question in &subject.questions {
        section("6. ask, over HTTP", || ask(&server, &subject, question, &image))?;
    }
    for (number, question) in subject.questions.iter().enumerate() {
        let tokens = dir.join(format!("tokens-{}.png", number + 1));
        section("7. draw where the tokens went", || {
            let mut ask = programs.serve();
            ask.args(["ask", &question.text, "--max-tokens", "1", "--engine-runtime", runtime.name()]);
            ask.arg("--bundle").arg(&bundle).arg("--image").arg(picture).arg("--picture").arg(&tokens);
            if let Some(library) = &library {
                ask.env(onnxruntime::VARIABLE, library);
            }
            shell::output(&mut ask)?;
            println!("{}: {}", shown(&tokens), question.text);
            Ok(())
        })?;
    }
    println!("\ndone in {}", shell::duration(start));
    report::how_to_go_on(&subject, &bundle, &server.url, args.keep);
    if args.keep { server.wait() } else { Ok(()) }
}

/// Asks one question and prints the answer; a known answer must come.
fn ask(server: &Server, subject: &Subject, question: &Question, image: &[u8]) -> Result<()> {
    println!("question: {}", question.text);
    let before = server.stages()?;
    let answer = server.ask(&request(&subject.model, &question.text, &subject.picture, image)?)?;
    let text = report::answer(&answer, &report::since(&before, &server.stages()?), subject.is_random())?;
    match question.expected {
        Some(expected) if text.trim() != expected => {
            bail!("expected the answer {expected:?}, found {text:?}")
        }
        Some(_) => println!("\nwhich is right"),
        None => (),
    }
    Ok(())
}

/// The runtime that was asked for, or the best there is; and ONNX Runtime's library.
fn choose(asked: Option<Runtime>) -> Result<(Runtime, Option<PathBuf>)> {
    if asked == Some(Runtime::Tract) {
        println!("not needed: --runtime tract");
        return Ok((Runtime::Tract, None));
    }
    match (onnxruntime::fetch()?, asked) {
        (Some(library), _) => Ok((Runtime::Ort, Some(library))),
        (None, Some(_)) => bail!("--runtime ort needs ONNX Runtime; leave it out to use tract"),
        (None, None) => {
            println!("so this demo runs on tract, in pure Rust: slower, the same answers");
            Ok((Runtime::Tract, None))
        }
    }
}

fn request(model: &str, question: &str, picture: &Path, image: &[u8]) -> Result<Value> {
    let extension = picture.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let kind = match extension.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "jpeg",
        "png" => "png",
        "gif" => "gif",
        "webp" => "webp",
        "bmp" => "bmp",
        _ => bail!("{}: expected a .png, .jpg, .webp, .gif or .bmp", picture.display()),
    };
    let url = format!("data:image/{kind};base64,{}", STANDARD.encode(image));
    Ok(json!({
        "model": model,
        "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": question},
        ]}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "arrcoc": {"explain": true},
    }))
}
