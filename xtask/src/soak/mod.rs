//! `cargo xtask soak`: tens of thousands of requests, a quarter of them abusive, to a server that must lose
//! and mix nothing.

mod bad;
mod report;

use std::io::{self, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bundles::{Build, Programs};
use crate::onnxruntime;
use crate::shell::{self, section};
use crate::traffic::http::{self, Answer};
use crate::traffic::questions::{self, Question, Said};
use crate::traffic::random::Random;
use crate::traffic::server::{Launch, Log};
use crate::traffic::watch;
use crate::traffic::{CHECKPOINT, PAGE};
use bad::{Bad, Outcome};
use report::{Report, Tally};

/// The key that good requests bring.
const KEY: &str = "soak-key";
/// Longest wait for one good answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// A connection that was idle for longer may be closed by the server: that is no answer lost.
const IDLE: Duration = Duration::from_secs(5);
/// How often a request that was answered "later" is sent again.
const TRIES: usize = 200;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Requests, good and bad
    #[arg(long, default_value_t = 30_000)]
    requests: u64,
    /// Clients at the same time
    #[arg(long, default_value_t = 32)]
    clients: u64,
    /// Most minutes; what is not sent by then is not sent
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// Where the random choices begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Use the programs in this directory instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Use this bundle of the ledger's checkpoint instead of building it
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Where to write the figures
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let subject = Subject::new(args.programs.as_deref(), args.bundle.as_deref())?;
    let output = args.output.clone().unwrap_or_else(|| shell::target("soak.json"));
    let time = Duration::from_secs(60 * args.minutes);
    let plan = Plan { requests: args.requests, clients: args.clients, seed: args.seed, time, pages: 48 };
    section("soak", || soak(&subject, &plan, &output))
}

/// The form that fits into the tests.
pub(crate) fn short(programs: &Programs, bundle: &Path, library: &Path) -> Result<()> {
    let program = programs.serve().get_program().into();
    let subject = Subject { program, bundle: bundle.to_owned(), library: library.to_owned() };
    let plan = Plan { requests: 600, clients: 16, seed: 1, time: Duration::from_secs(120), pages: 6 };
    soak(&subject, &plan, &shell::target("soak-short.json"))
}

/// A server, and the bundle of the ledger's checkpoint that it serves.
pub(crate) struct Subject {
    pub(crate) program: PathBuf,
    pub(crate) bundle: PathBuf,
    pub(crate) library: PathBuf,
}

impl Subject {
    /// Those that are given, and for the rest the repository's own, built.
    pub(crate) fn new(programs: Option<&Path>, bundle: Option<&Path>) -> Result<Self> {
        let library = section("ONNX Runtime", onnxruntime::fetch)?.context("needs ONNX Runtime")?;
        let programs = section("programs", || match programs {
            Some(dir) => Ok(Programs::at(dir)),
            None => Programs::build(true),
        })?;
        let bundle = section("bundle", || match bundle {
            Some(dir) => Ok(dir.to_owned()),
            None => programs.bundle(
                &shell::root().join(CHECKPOINT),
                &shell::target("soak"),
                &Build::cpu("arr-coc-ledger", "fp32"),
            ),
        })?;
        Ok(Self { program: programs.serve().get_program().into(), bundle, library })
    }
}

/// An open connection, and when it was last used.
type Connection = (BufReader<TcpStream>, Instant);

/// How much is sent.
struct Plan {
    requests: u64,
    clients: u64,
    seed: u64,
    time: Duration,
    /// Pages that are made of the one that is shipped.
    pages: usize,
}

/// What all clients share.
struct Soak<'a> {
    address: SocketAddr,
    questions: &'a [Question],
    alone: &'a [Said],
    bad: Bad,
    tally: Mutex<Tally>,
}

fn soak(subject: &Subject, plan: &Plan, output: &Path) -> Result<()> {
    let launch = Launch {
        program: &subject.program,
        library: &subject.library,
        // Caches that are full early: what still grows then is a leak.
        flags: ["--bundle", &subject.bundle.to_string_lossy(), "--auth-api-keys", KEY]
            .into_iter()
            .chain(["--engine-feature-cache", "4MiB", "--engine-token-cache", "1MiB"])
            .map(str::to_owned)
            .collect(),
        address_space: None,
        log: Log::File(output.with_extension("log")),
    };
    let mut server = launch.ready()?;
    let (address, process) = (server.address, server.process());
    let rest = process.resident().unwrap_or(0);
    let questions = questions::all(&shell::root().join(PAGE), plan.pages)?;
    let alone: Vec<Said> =
        questions.iter().map(|question| ask_alone(address, question)).collect::<Result<_>>()?;
    println!("{} questions answered alone; {} clients begin", questions.len(), plan.clients);

    let soak = Soak {
        address,
        questions: &questions,
        alone: &alone,
        bad: Bad::new(address, KEY)?,
        tally: Mutex::default(),
    };
    let (probes, memory) = (watch::probes(address), watch::memory(process));
    let start = Instant::now();
    soak.run(plan);
    let seconds = start.elapsed().as_secs_f64();
    let health = watch::latencies(probes.finish());
    // What is freed with a delay is freed by then.
    thread::sleep(Duration::from_secs(2));
    let memory = memory.finish();
    let settled = process.resident().unwrap_or(0);
    let again = questions
        .iter()
        .zip(&alone)
        .all(|(question, said)| ask_alone(address, question).is_ok_and(|again| again.equals(said)));
    let tally = soak.tally.into_inner().unwrap_or_default();
    let died = server.ended().map(|status| status.to_string());
    let report = Report { seconds, rest, settled, memory, health, tally, died, again };
    report.write(output)?;
    report.print();
    report
        .check()
        .map_err(|error| error.context(format!("see {}", shell::shown(&output.with_extension("log")))))
}

/// The answer before anybody else asks.
fn ask_alone(address: SocketAddr, question: &Question) -> Result<Said> {
    let request = http::post(question.path, address, Some(KEY), &question.body(false));
    let answer = http::exchange(address, &request, PATIENCE)?;
    ensure!(answer.status == 200, "alone: {}: {}", answer.status, answer.text());
    let said = Said::whole(&answer)?;
    if let Some(known) = question.known {
        let text = &said.choices[0].0;
        ensure!(text.trim() == known, "expected the answer {known:?}, found {text:?}");
    }
    Ok(said)
}

impl Soak<'_> {
    fn run(&self, plan: &Plan) {
        let (next, start) = (AtomicU64::new(0), Instant::now());
        thread::scope(|scope| {
            for _ in 0..plan.clients {
                scope.spawn(|| {
                    let mut tally = Tally::default();
                    let mut connection = None;
                    while start.elapsed() < plan.time {
                        let request = next.fetch_add(1, Ordering::Relaxed);
                        if request >= plan.requests {
                            break;
                        }
                        let mut random = Random::of(plan.seed, request);
                        if request % 4 == 3 {
                            self.misbehave(&mut random, &mut tally);
                        } else {
                            self.ask(&mut random, &mut connection, &mut tally);
                        }
                    }
                    self.tally.lock().unwrap_or_else(|poison| poison.into_inner()).add(tally);
                });
            }
        });
    }

    fn misbehave(&self, random: &mut Random, tally: &mut Tally) {
        let (kind, outcome) = self.bad.act(random);
        let said = match outcome {
            Ok(Outcome::Left) => "left".to_owned(),
            Ok(Outcome::Answered(answer)) => {
                tally.longest_error = tally.longest_error.max(answer.body.len());
                if answer.status >= 500 && answer.status != 503 {
                    tally.failures.push(format!("{kind}: {}: {}", answer.status, short_text(&answer)));
                }
                answer.status.to_string()
            }
            Err(error) => cut(&error).to_owned(),
        };
        *tally.bad.entry(kind).or_default().entry(said).or_default() += 1;
    }

    fn ask(&self, random: &mut Random, connection: &mut Option<Connection>, tally: &mut Tally) {
        // A quarter asks about the page itself, which the caches then know.
        let index = if random.below(4) == 0 { random.below(4) } else { random.below(self.questions.len()) };
        let (question, expected, stream) = (&self.questions[index], &self.alone[index], random.below(3) == 0);
        let request = http::post(question.path, self.address, Some(KEY), &question.body(stream));
        let start = Instant::now();
        let answer = (0..TRIES).find_map(|_| match self.send(&request, connection) {
            Ok(answer) if matches!(answer.status, 429 | 503) => {
                tally.later += 1;
                thread::sleep(Duration::from_millis(50));
                None
            }
            other => Some(other),
        });
        tally.good.milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return tally.lost.push(format!("question {index}: {error}")),
            None => return tally.lost.push(format!("question {index}: always answered \"later\"")),
        };
        if answer.status != 200 {
            return tally.lost.push(format!("question {index}: {}: {}", answer.status, short_text(&answer)));
        }
        let said = match stream {
            true => Said::stream(&answer, expected.choices.len()),
            false => Said::whole(&answer),
        };
        match said {
            Err(error) => tally.lost.push(format!("question {index}: {error:#}")),
            Ok(said) if !said.equals(expected) => {
                tally.mixed.push(format!(
                    "question {index}: expected {:?}, found {:?}",
                    expected.choices, said.choices
                ));
            }
            Ok(_) => {}
        }
    }

    /// Sends on the connection that is open, or on a new one. A server that closes one without a word has
    /// lost an answer.
    fn send(&self, request: &[u8], connection: &mut Option<Connection>) -> io::Result<Answer> {
        let mut open = match connection.take() {
            Some((open, used)) if used.elapsed() < IDLE => open,
            _ => BufReader::new(http::connect(self.address, PATIENCE)?),
        };
        open.get_mut().write_all(request)?;
        let answer = http::read(&mut open)?;
        if answer.header("connection") != Some("close") {
            *connection = Some((open, Instant::now()));
        }
        Ok(answer)
    }
}

fn short_text(answer: &Answer) -> String {
    answer.text().chars().take(300).collect()
}

/// How a connection ended without an answer.
pub(crate) fn cut(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time",
        _ => "cut off",
    }
}
