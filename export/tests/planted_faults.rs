//! `verify` says no to a bundle of any precision in which one layer's numbers are others than the checkpoint's.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use arrcoc_bundle::{Precision, Target};
use arrcoc_export::build;
use arrcoc_export::onnx::{self, FLOAT, FLOAT16, Location};
use arrcoc_export::progress::Progress;
use common::{Workshop, calibrated, has_onnx_runtime, mended, verified};
use half::f16;

/// Where a constant of a graph lies, and its ONNX type: the first whose name has all of `parts` in it.
fn constant(bundle: &Path, graph: &str, parts: &[&str]) -> (Location, i32) {
    let path = bundle.join(format!("{graph}.onnx"));
    let constants = onnx::read(&path).unwrap().initializers;
    let found = constants.iter().find(|constant| parts.iter().all(|part| constant.name.contains(part)));
    let found = found.unwrap_or_else(|| panic!("{graph} has no constant of {parts:?}"));
    (found.location(&path).unwrap().unwrap(), found.data_type)
}

/// Doubles every number of a constant.
fn double(bundle: &Path, graph: &str, parts: &[&str]) {
    let (Location { file, offset, length }, element) = constant(bundle, graph, parts);
    mended(bundle, &file, |bytes| {
        let numbers = &mut bytes[offset as usize..(offset + length) as usize];
        match element {
            FLOAT => numbers.chunks_exact_mut(4).for_each(|float| {
                let doubled = f32::from_le_bytes((&*float).try_into().unwrap()) * 2.0;
                float.copy_from_slice(&doubled.to_le_bytes());
            }),
            FLOAT16 => numbers.chunks_exact_mut(2).for_each(|half| {
                let doubled = f16::from_le_bytes((&*half).try_into().unwrap()) * f16::from_f32(2.0);
                half.copy_from_slice(&doubled.to_le_bytes());
            }),
            other => panic!("{} cannot be doubled", onnx::element_name(other)),
        }
    });
}

/// A bundle of a precision that passes, and the same with a constant doubled, which does not: by the graph that it is in.
fn doubled_is_noticed(
    workshop: &Workshop,
    (precision, target): (Precision, Target),
    graph: &str,
    parts: &[&str],
) {
    let calibration =
        (target == Target::Portable && precision != Precision::Fp32).then(|| calibrated(workshop));
    let options = build::Options { precision, calibration, ..workshop.options(target) };
    let bundle: PathBuf = build::build(&workshop.checkpoint(), &options, Progress::Silent).unwrap().bundle;
    let sound = verified(&bundle);
    assert!(sound.passed, "{sound}");
    double(&bundle, graph, parts);
    let report = verified(&bundle);
    assert!(!report.passed, "{precision} for {target}, {graph}, {parts:?}: {report}");
    let failed: Vec<&str> =
        report.stages.iter().filter(|stage| !stage.passed()).map(|stage| stage.stage.as_str()).collect();
    assert!(failed.iter().all(|stage| *stage == graph), "{precision}: {failed:?}, {report}");
    fs::remove_dir_all(&bundle).unwrap();
}

/// Layers in the middle of the two kinds of graphs that every precision changes.
const LAYERS: [(&str, &[&str]); 2] = [
    ("refiner", &["clip_vision_model.encoder.layers.1.mlp.fc1.weight"]),
    ("decoder", &["ovis_llm.model.layers.1.mlp.down_proj.weight"]),
];

fn every_layer(precision: Precision, target: Target, part: &str) {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.build(Target::Portable).unwrap();
    for (graph, layer) in LAYERS {
        let parts: Vec<&str> = layer.iter().copied().chain([part]).collect();
        doubled_is_noticed(&workshop, (precision, target), graph, &parts);
    }
}

#[test]
fn weights_in_fp32() {
    every_layer(Precision::Fp32, Target::Cpu, "");
}

#[test]
fn weights_in_fp16() {
    every_layer(Precision::Fp16, Target::Portable, "");
}

#[test]
fn scales_of_fp8() {
    every_layer(Precision::Fp8, Target::Portable, "scale");
}

#[test]
fn scales_of_int8() {
    every_layer(Precision::Int8, Target::Cpu, "scale");
}

#[test]
fn scales_of_int4_for_cpus() {
    every_layer(Precision::Int4, Target::Cpu, "scale");
}

#[test]
fn scales_of_int4_for_gpus() {
    if !has_onnx_runtime() {
        return;
    }
    let workshop = Workshop::new();
    workshop.build(Target::Portable).unwrap();
    let (graph, layer) = LAYERS[1];
    let parts: Vec<&str> = layer.iter().copied().chain(["scale"]).collect();
    doubled_is_noticed(&workshop, (Precision::Int4, Target::Portable), graph, &parts);
}
