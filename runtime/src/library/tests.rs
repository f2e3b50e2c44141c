//! Both libraries on the same tiny graphs (`tests/fixtures/make_onnx.py`).
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::PathBuf;

use arrcoc_tests::require::can_run;

use super::*;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/onnx").join(format!("{name}.onnx"))
}

/// Every library that is to be had; tract always is.
fn runtimes() -> Vec<Box<dyn Library>> {
    [LibraryKind::Tract.open(2).unwrap()].into_iter().chain(ort()).collect()
}

/// ONNX Runtime, unless the machine has none; a library that was named must load.
fn ort() -> Option<Box<dyn Library>> {
    let runtime = LibraryKind::Ort.open(2);
    if let Err(error) = &runtime {
        assert!(matches!(error, LibraryError::Unavailable { .. }), "{error}");
    }
    can_run("ort", &runtime).then(|| runtime.unwrap())
}

fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_vec(shape, values.to_vec()).unwrap()
}

fn i64s(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_vec(shape, values.to_vec()).unwrap()
}

fn named<'a>(outputs: &'a [(String, Tensor)], name: &str) -> &'a Tensor {
    &outputs.iter().find(|(output, _)| output == name).unwrap().1
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= 1e-5, "differ by {largest}: {found:?}, {expected:?}");
}

#[test]
fn external_data_and_any_batch() {
    for runtime in runtimes() {
        let mut graph = runtime.load("affine", &fixture("affine")).unwrap();
        for batch in [1, 3] {
            let x: Vec<f32> = (0..batch * 3).map(|i| i as f32).collect();
            let ids: Vec<i64> = (0..batch as i64 * 2).collect();
            let inputs = [("ids", i64s(&[batch, 2], &ids)), ("x", f32s(&[batch, 3], &x))];
            let outputs = graph.run(&inputs).unwrap();
            let expected = x.chunks(3).flat_map(|r| {
                [r[0] + 3.0 * r[1] + 5.0 * r[2] + 0.5, 2.0 * r[0] + 4.0 * r[1] + 6.0 * r[2] - 0.5]
            });
            assert_eq!(outputs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["y", "same_ids"]);
            assert_eq!(named(&outputs, "y").shape(), [batch, 2]);
            assert_close(named(&outputs, "y").as_slice().unwrap(), &expected.collect::<Vec<_>>());
            assert_eq!(named(&outputs, "same_ids").as_slice::<i64>().unwrap(), ids);
        }
    }
}

#[test]
fn a_run_that_nobody_waits_for_ends_early_and_the_next_one_does_not() {
    let Some(runtime) = ort() else { return };
    let mut graph = runtime.load("affine", &fixture("affine")).unwrap();
    let inputs = [("ids", i64s(&[1, 0], &[])), ("x", f32s(&[1, 3], &[1.0, 0.0, 0.0]))];
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(graph.run_until(&inputs, &cancel), Err(LibraryError::Run { .. })));
    let outputs = graph.run_until(&inputs, &Cancel::default()).unwrap();
    assert_close(named(&outputs, "y").as_slice().unwrap(), &[1.5, 1.5]);
}

#[test]
fn outputs_outlive_their_graph_and_feed_the_next_run_without_a_copy() {
    for runtime in runtimes() {
        let mut graph = runtime.load("affine", &fixture("affine")).unwrap();
        let ids = i64s(&[1, 0], &[]);
        let outputs = graph.run(&[("x", f32s(&[1, 3], &[1.0, 0.0, 0.0])), ("ids", ids)]).unwrap();
        drop(graph);
        drop(runtime);
        let y = named(&outputs, "y").clone();
        assert!(named(&outputs, "same_ids").bytes().is_empty());
        drop(outputs);
        assert_close(y.as_slice().unwrap(), &[1.5, 1.5]);
        assert_eq!(y.reshaped(&[2]).unwrap().bytes().as_ptr(), y.bytes().as_ptr());
    }
}

#[test]
fn wrong_inputs_are_named_before_the_library_sees_them() {
    for runtime in runtimes() {
        let mut graph = runtime.load("affine", &fixture("affine")).unwrap();
        let ids = || ("ids", i64s(&[2, 1], &[0, 0]));
        let cases = [
            (vec![ids()], "input `x` is missing"),
            (vec![ids(), ("x", i64s(&[2, 3], &[0; 6]))], "input `x`: expected F32, found I64"),
            (
                vec![ids(), ("x", f32s(&[2, 4], &[0.0; 8]))],
                "input `x`: expected shape [batch, 3], found [2, 4]",
            ),
            (vec![ids(), ("x", f32s(&[1, 3], &[0.0; 3]))], "axis `batch`"),
        ];
        for (inputs, part) in cases {
            let text = graph.run(&inputs).unwrap_err().to_string();
            assert!(text.contains("graph `affine`") && text.contains(part), "{text}");
        }
    }
}

#[test]
fn files_that_are_no_graphs_are_load_errors() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk.onnx");
    std::fs::write(&junk, "this is no protobuf").unwrap();
    let orphan = dir.path().join("affine.onnx");
    std::fs::copy(fixture("affine"), &orphan).unwrap();
    for runtime in runtimes() {
        for path in [&junk, &orphan, &dir.path().join("none.onnx")] {
            let error = runtime.load("g", path).err().unwrap();
            assert!(matches!(&error, LibraryError::Load { graph, .. } if graph == "g"), "{error}");
        }
    }
}

/// `softmax(q k^T) v` over the rows of `present`, the last row's result.
fn attention(present: &[[f32; 4]]) -> Vec<f32> {
    let dot = |a: &[f32; 4], b: &[f32; 4]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let query = present.last().unwrap();
    let weights: Vec<f32> = present.iter().map(|key| dot(query, key).exp()).collect();
    let sum: f32 = weights.iter().sum();
    (0..4).map(|i| present.iter().zip(&weights).map(|(row, w)| row[i] * w / sum).sum()).collect()
}

#[test]
fn a_decoder_steps_over_a_growing_cache_from_empty() {
    let rows: Vec<[f32; 4]> =
        (0..6).map(|t| std::array::from_fn(|i| ((t * 4 + i) as f32 * 0.7).sin())).collect();
    for runtime in runtimes() {
        let mut graph = runtime.load("decoder", &fixture("decoder")).unwrap();
        let mut past = f32s(&[1, 0, 4], &[]);
        let mut done = 0;
        for seq in [3, 1, 2] {
            let x = rows[done..done + seq].concat();
            done += seq;
            let inputs =
                [("x", f32s(&[1, seq, 4], &x)), ("mask", i64s(&[1, done], &vec![1; done])), ("past", past)];
            let outputs = graph.run(&inputs).unwrap();
            let logits = named(&outputs, "logits");
            assert_eq!(logits.shape(), [1, 1, 4], "{}", runtime.describe());
            assert_close(logits.as_slice().unwrap(), &attention(&rows[..done]));
            past = named(&outputs, "present").clone();
            assert_close(past.as_slice().unwrap(), &rows[..done].concat());
        }
    }
}

#[test]
fn what_a_run_keeps_is_an_input_of_the_next_and_can_be_read() {
    let rows: Vec<[f32; 4]> =
        (0..6).map(|t| std::array::from_fn(|i| ((t * 4 + i) as f32 * 0.7).sin())).collect();
    for runtime in runtimes() {
        let mut graph = runtime.load("decoder", &fixture("decoder")).unwrap();
        let mut past = Kept::host(f32s(&[1, 0, 4], &[]));
        let mut done = 0;
        for seq in [3, 1, 2] {
            let x = rows[done..done + seq].concat();
            done += seq;
            let inputs = [("x", f32s(&[1, seq, 4], &x)), ("mask", i64s(&[1, done], &vec![1; done]))];
            let before = past.clone();
            let RunOutputs { returned, kept } =
                graph.run_keeping(&inputs, &[("past", past)], &["present"]).unwrap();
            assert_eq!(returned.len(), 1, "{}", runtime.describe());
            assert_close(named(&returned, "logits").as_slice().unwrap(), &attention(&rows[..done]));
            past = kept.into_iter().next().unwrap();
            assert_eq!((past.shape(), past.element()), (&[1, done, 4][..], ElementType::F32));
            assert_close(past.to_host().unwrap().as_slice().unwrap(), &rows[..done].concat());
            // An earlier one is still what it was: answers branch off.
            assert_close(before.to_host().unwrap().as_slice().unwrap(), &rows[..done - seq].concat());
        }
        let inputs = [("x", f32s(&[1, 1, 4], &[0.0; 4])), ("mask", i64s(&[1, 7], &[1; 7]))];
        let error = graph.run_keeping(&inputs, &[("past", past.clone())], &["futures"]).err().unwrap();
        assert!(error.to_string().contains("futures"), "{error}");
        let short = Kept::host(f32s(&[1, 6, 3], &[0.0; 18]));
        let error = graph.run_keeping(&inputs, &[("past", short)], &["present"]).err().unwrap();
        assert!(error.to_string().contains("past"), "{error}");
    }
}

#[test]
fn window_padding_runs_at_more_sizes_than_plans_are_kept() {
    for runtime in runtimes() {
        let mut graph = runtime.load("windows", &fixture("windows")).unwrap();
        for (height, width) in (1..=7).flat_map(|h| [(h, 4), (h, 6)]).chain([(1, 4)]) {
            let x: Vec<f32> = (0..height * width * 2).map(|i| i as f32 + 1.0).collect();
            let outputs = graph.run(&[("x", f32s(&[1, height, width, 2], &x))]).unwrap();
            let (rows, columns) = (usize::div_ceil(height, 3), usize::div_ceil(width, 3));
            assert_eq!(outputs[0].1.shape(), [rows * columns, 3, 3, 2]);
            let y = outputs[0].1.as_slice::<f32>().unwrap();
            for (at, &found) in y.iter().enumerate() {
                let (window, cell) = (at / 18, at % 18 / 2);
                let (row, column) = (window / columns * 3 + cell / 3, window % columns * 3 + cell % 3);
                let inside = row < height && column < width;
                let expected = if inside { x[(row * width + column) * 2 + at % 2] } else { 0.0 };
                assert_eq!(found, expected);
            }
        }
    }
}

#[test]
fn tract_refuses_in_place_updates() {
    let runtime = LibraryKind::Tract.open(1).unwrap();
    let mut graph = runtime.load("affine", &fixture("affine")).unwrap();
    let error = graph.run_in_place(&[], &mut []).unwrap_err();
    assert!(error.to_string().contains("portable"), "{error}");
}

/// One step of the fused attention: width 16, two query heads on one key/value head.
struct Step {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

fn step(t: usize) -> Step {
    let wave = |n: usize, shift: f32| (0..n).map(|i| ((t * 31 + i) as f32 * 0.37 + shift).sin()).collect();
    Step { q: wave(16, 0.0), k: wave(8, 1.0), v: wave(8, 2.0) }
}

fn fused_inputs(steps: &[Step], total: usize) -> Vec<(&'static str, Tensor)> {
    let seq = steps.len();
    let join = |part: fn(&Step) -> &Vec<f32>| steps.iter().flat_map(part).copied().collect::<Vec<_>>();
    vec![
        ("q", f32s(&[1, seq, 16], &join(|s| &s.q))),
        ("k", f32s(&[1, seq, 8], &join(|s| &s.k))),
        ("v", f32s(&[1, seq, 8], &join(|s| &s.v))),
        ("seqlens_k", Tensor::from_vec(&[1], vec![total as i32 - 1]).unwrap()),
        ("total_sequence_length", Tensor::from_vec(&[], vec![total as i32]).unwrap()),
    ]
}

#[test]
fn the_kv_cache_is_extended_in_the_callers_memory() {
    const CAPACITY: usize = 12;
    let Some(runtime) = ort() else { return };
    let mut graph = runtime.load("inplace", &fixture("inplace")).unwrap();
    let shape = [1, 1, CAPACITY, 8];
    let mut keys = vec![7.0_f32; CAPACITY * 8];
    let mut values = vec![7.0_f32; CAPACITY * 8];
    let mut done = 0;
    for chunk in [4, 1, 1, 3] {
        let steps: Vec<_> = (done..done + chunk).map(step).collect();
        done += chunk;
        let mut buffers =
            [("past_key", "present_key", &mut keys), ("past_value", "present_value", &mut values)].map(
                |(input, output, data)| InPlace {
                    input,
                    output,
                    shape: &shape,
                    element: ElementType::F32,
                    // SAFETY: a slice of floats is plain memory; the bytes stay borrowed from it.
                    memory: InPlaceMemory::Host(unsafe {
                        std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), data.len() * 4)
                    }),
                },
            );
        let outputs = graph.run_in_place(&fused_inputs(&steps, done), &mut buffers).unwrap();
        assert_eq!(outputs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["y"]);
        let all: Vec<_> = (0..done).map(step).collect();
        // What was written is the keys and values themselves, and nothing behind them was touched.
        assert_eq!(keys[..done * 8], all.iter().flat_map(|s| s.k.clone()).collect::<Vec<_>>());
        assert_eq!(values[..done * 8], all.iter().flat_map(|s| s.v.clone()).collect::<Vec<_>>());
        assert!(keys[done * 8..].iter().chain(&values[done * 8..]).all(|&x| x == 7.0));
        let y = outputs[0].1.as_slice::<f32>().unwrap();
        for (head, found) in y[y.len() - 16..].chunks(8).enumerate() {
            assert_close(found, &attend(&all, head));
        }
    }
}

/// The last step's attention output of one query head.
fn attend(steps: &[Step], head: usize) -> Vec<f32> {
    let query = &steps.last().unwrap().q[head * 8..head * 8 + 8];
    let score = |k: &[f32]| query.iter().zip(k).map(|(a, b)| a * b).sum::<f32>() / 8_f32.sqrt();
    let weights: Vec<f32> = steps.iter().map(|s| score(&s.k).exp()).collect();
    let sum: f32 = weights.iter().sum();
    (0..8).map(|i| steps.iter().zip(&weights).map(|(s, w)| s.v[i] * w / sum).sum()).collect()
}

#[test]
fn buffers_of_the_wrong_size_or_name_are_refused() {
    let Some(runtime) = ort() else { return };
    let mut graph = runtime.load("inplace", &fixture("inplace")).unwrap();
    let steps = [step(0)];
    let mut run = |input, output, length: usize| {
        let (mut keys, mut values) = (vec![0_u8; length], vec![0_u8; 256]);
        let shape = &[1, 1, 8, 8];
        let element = ElementType::F32;
        let mut buffers = [
            InPlace { input, output, shape, element, memory: InPlaceMemory::Host(&mut keys) },
            InPlace {
                input: "past_value",
                output: "present_value",
                shape,
                element,
                memory: InPlaceMemory::Host(&mut values),
            },
        ];
        graph.run_in_place(&fused_inputs(&steps, 1), &mut buffers).map(drop).map_err(|e| e.to_string())
    };
    run("past_key", "present_key", 256).unwrap();
    let text = run("past_key", "present_key", 255).unwrap_err();
    assert!(text.contains("buffer of `past_key`: expected 256") && text.contains("found 255"), "{text}");
    let text = run("past_key", "presence", 256).unwrap_err();
    assert!(text.contains("no output `presence`"), "{text}");
    let text = run("past", "present_key", 256).unwrap_err();
    assert!(text.contains("no input `past`"), "{text}");
}

#[test]
fn runtimes_describe_themselves_and_share_a_process() {
    let Some(runtime) = ort() else { return };
    assert!(runtime.describe().starts_with("ONNX Runtime 1."), "{}", runtime.describe());
    let other = LibraryKind::Ort.open(1).unwrap();
    let mut graph = other.load("affine", &fixture("affine")).unwrap();
    let inputs = [("x", f32s(&[1, 3], &[0.0; 3])), ("ids", i64s(&[1, 1], &[5]))];
    assert_close(named(&graph.run(&inputs).unwrap(), "y").as_slice().unwrap(), &[0.5, -0.5]);
}

/// What the child process of the next test does: the library is chosen once per process.
#[test]
fn opening_onnx_runtime_says_what_is_expected() {
    let Some(expected) = std::env::var_os("ARRCOC_TEST_EXPECT") else { return };
    let error = LibraryKind::Ort.open(1).err().unwrap();
    assert!(matches!(error, LibraryError::Unavailable { .. }));
    let (text, expected) = (error.to_string(), expected.to_string_lossy());
    assert!(text.contains(&*expected), "`{expected}` is missing in: {text}");
    assert!(text.contains("set ORT_DYLIB_PATH"), "{text}");
    LibraryKind::Tract.open(1).unwrap();
}

#[test]
fn a_missing_or_broken_library_is_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("libonnxruntime.so.1.31.1");
    std::fs::write(&junk, "not a library").unwrap();
    let missing = dir.path().join("none.so");
    for (path, expected) in [(&missing, "is not a file"), (&junk, "failed to load")] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "library::tests::opening_onnx_runtime_says_what_is_expected"])
            .env("ORT_DYLIB_PATH", path)
            .env("ARRCOC_TEST_EXPECT", expected)
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && output.contains("1 passed"), "{output}");
    }
}

/// The suite's ONNX Runtime has no GPU provider: opening one must say so, and never run on the CPU instead.
#[test]
fn a_provider_that_is_not_there_is_an_error_that_says_what_to_install() {
    if ort().is_none() {
        return;
    }
    for (kind, name) in [(LibraryKind::Cuda, "CUDA"), (LibraryKind::TensorRt, "TensorRT")] {
        let Err(error) = kind.open(1) else {
            eprintln!("skipped: this machine has {name}");
            continue;
        };
        let text = error.to_string();
        assert!(matches!(error, LibraryError::Unavailable { .. }), "{text}");
        for part in [name, "cuDNN 9", "TensorRT 10", "CUDA 13", "driver of 580"] {
            assert!(text.contains(part), "`{part}` is missing in: {text}");
        }
    }
}
