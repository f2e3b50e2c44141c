//! Shapes of Qwen2.5-VL that `init` knows by name, after the released checkpoints, whose decoder has no
//! section of its own.

use serde_json::{Value, json};

use super::{DIALOGUE, Text, Tower, top_level};
use crate::families::contract::Preset;

pub(super) const PRESETS: [Preset; 4] = [
    Preset {
        name: "qwen2.5-vl-tiny",
        about: "Qwen2.5-VL's mechanisms at a few hundred kilobytes: for tests and the demo",
        config: |dtype| TINY.config(dtype),
        image_processor: || TINY.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen2.5-vl-3b",
        about: "The shape of Qwen2.5-VL-3B-Instruct",
        config: |dtype| QWEN2_5_VL_3B.config(dtype),
        image_processor: || QWEN2_5_VL_3B.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen2.5-vl-7b",
        about: "The shape of Qwen2.5-VL-7B-Instruct",
        config: |dtype| QWEN2_5_VL_7B.config(dtype),
        image_processor: || QWEN2_5_VL_7B.image_processor(),
        dialogue: &DIALOGUE,
    },
    Preset {
        name: "qwen2.5-vl-32b",
        about: "The shape of Qwen2.5-VL-32B-Instruct",
        config: |dtype| QWEN2_5_VL_32B.config(dtype),
        image_processor: || QWEN2_5_VL_32B.image_processor(),
        dialogue: &DIALOGUE,
    },
];

/// The sizes in which the presets differ.
struct Sizes {
    tower: Tower,
    /// Side of a window, pixels.
    window: usize,
    full: &'static [usize],
    text: Text,
    sections: [usize; 3],
    /// The least and the most pixels of a picture.
    pixels: [u64; 2],
    tied: bool,
}

const TINY: Sizes = Sizes {
    tower: Tower { hidden: 48, layers: 3, heads: 4, intermediate: 96, patch: 8 },
    window: 32,
    full: &[1],
    text: Text { hidden: 64, layers: 3, heads: 4, kv_heads: 2, intermediate: 128, vocab: 320, context: 4096 },
    sections: [2, 3, 3],
    pixels: [32 * 32, 256 * 256],
    tied: true,
};

const TOWER: Tower = Tower { hidden: 1280, layers: 32, heads: 16, intermediate: 3420, patch: 14 };

const QWEN2_5_VL_3B: Sizes = Sizes {
    tower: TOWER,
    window: 112,
    full: &[7, 15, 23, 31],
    text: Text {
        hidden: 2048,
        layers: 36,
        heads: 16,
        kv_heads: 2,
        intermediate: 11_008,
        vocab: 151_936,
        context: 128_000,
    },
    sections: [16, 24, 24],
    pixels: [3136, 12_845_056],
    tied: true,
};

const QWEN2_5_VL_7B: Sizes = Sizes {
    text: Text {
        hidden: 3584,
        layers: 28,
        heads: 28,
        kv_heads: 4,
        intermediate: 18_944,
        vocab: 152_064,
        ..QWEN2_5_VL_3B.text
    },
    tied: false,
    ..QWEN2_5_VL_3B
};

const QWEN2_5_VL_32B: Sizes = Sizes {
    tower: Tower { intermediate: 3456, ..TOWER },
    text: Text {
        hidden: 5120,
        layers: 64,
        heads: 40,
        kv_heads: 8,
        intermediate: 27_648,
        vocab: 152_064,
        ..QWEN2_5_VL_3B.text
    },
    tied: false,
    ..QWEN2_5_VL_3B
};

/// CLIP's statistics of pixels.
const CLIP: [[f64; 3]; 2] = [[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]];

impl Sizes {
    /// The `config.json` with weights of type `dtype`.
    fn config(&self, dtype: &str) -> Value {
        let tower = json!({ "window_size": self.window, "fullatt_block_indexes": self.full });
        // The decoder's keys stand at the top level.
        let rest = json!({
            "rope_theta": 1_000_000.0,
            "rope_scaling": { "type": "mrope", "mrope_section": self.sections },
            "use_sliding_window": false,
            "vision_config": self.tower.config("qwen2_5_vl", "silu", self.text.hidden, tower),
        });
        let rest = self.text.config(rest);
        top_level("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", dtype, self.tied, rest)
    }

    /// `preprocessor_config.json`.
    fn image_processor(&self) -> Value {
        let [least, most] = self.pixels;
        let limits = json!({ "min_pixels": least, "max_pixels": most });
        self.tower.image_processor("Qwen2VLImageProcessor", CLIP, limits)
    }
}
