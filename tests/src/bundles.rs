//! Bundles for tests that need no real graphs: the manifest and the files are right, the graphs are empty.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrcoc_bundle::manifest::{CacheElement, DecoderSpec, FORMAT, RawGraph, RawManifest, VisionSpec};
use arrcoc_bundle::{
    AxisRange, Bundle, GenerationSpec, MANIFEST, Meaning, Precision, Role, Statistics, Target, hex,
    processors,
};
use sha2::{Digest as _, Sha256};

/// Graphs of the composite family.
pub const COMPOSITE: [(&str, Role); 7] = [
    ("embedding", Role::Embedding),
    ("vision_encoder", Role::Encoder),
    ("allocator", Role::Chooser),
    ("compressor", Role::Chooser),
    ("refiner", Role::Encoder),
    ("quality_adapter", Role::Projector),
    ("decoder", Role::Decoder),
];

/// A graph without a node, whose producer has a name: the shortest ONNX model that differs from others.
fn model(producer: &str) -> Vec<u8> {
    [&[0x12, producer.len() as u8], producer.as_bytes()].concat()
}

/// A manifest of the composite family: inputs of 64 and 128 pixels, patches of 16, 2 x 2 gist cells, five
/// tiers. Writes the graphs that it lists.
///
/// # Panics
/// When `dir` cannot be written to.
pub fn composite(dir: &Path) -> RawManifest {
    let graphs = COMPOSITE.iter().map(|(name, role)| {
        let file = format!("{name}.onnx");
        fs::write(dir.join(&file), model(&file)).expect("a directory for tests");
        let sha256 = hex(&Sha256::digest(model(&file)));
        let axes = BTreeMap::from([("batch".to_owned(), AxisRange { min: 1, opt: 1, max: 8 })]);
        let outputs = BTreeMap::from([("out".to_owned(), Meaning::Network)]);
        ((*name).to_owned(), RawGraph { role: *role, file, sha256, opset: 18, axes, outputs })
    });
    let processor = processors::ArrCocOvis {
        patch_size: 16,
        feature_size: 32,
        image_sizes: vec![64, 128],
        native_size: 128,
        image_mean: [0.5; 3],
        image_std: [0.25; 3],
        gist_grid: 2,
    };
    RawManifest {
        format: FORMAT,
        model: "tiny".to_owned(),
        family: "arr_coc_ovis".to_owned(),
        precision: Precision::Fp32,
        target: Target::Portable,
        weights: Vec::new(),
        calibration_sha256: None,
        kept_fp32: Vec::new(),
        tool: "test".to_owned(),
        checkpoint_sha256: hex(&Sha256::digest(b"checkpoint")),
        graphs: graphs.collect(),
        files: BTreeMap::new(),
        vision: VisionSpec {
            image_token_id: 3,
            images_first: true,
            token_budgets: vec![8, 12, 16, 24, 32],
            embeds_target: Some(Statistics { mean: 0.0, std: 0.02, sparsity: 0.0 }),
        },
        processor: serde_yaml::to_value(processor).expect("a plain struct"),
        decoder: DecoderSpec {
            layers: 2,
            kv_heads: 1,
            head_dim: 8,
            hidden_size: 16,
            vocab_size: 100,
            context_length: 256,
            eos_token_ids: vec![1, 2],
            cache_element: CacheElement::Fp32,
            deep_levels: 0,
            recurrent: None,
        },
        generation: GenerationSpec::default(),
        tool_calls: None,
    }
}

/// Writes a manifest and opens the bundle.
///
/// # Panics
/// When the bundle cannot be opened.
pub fn open(dir: &Path, manifest: &RawManifest) -> Bundle {
    let text = serde_yaml::to_string(manifest).expect("a plain struct");
    fs::write(dir.join(MANIFEST), text).expect("a directory for tests");
    Bundle::open(dir).expect("a bundle that is right")
}
