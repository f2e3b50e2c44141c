//! The visual half of SmolVLM (<https://arxiv.org/abs/2504.05299>) and Idefics3
//! (<https://arxiv.org/abs/2408.12637>), with the parameter names of `Idefics3Model`: SigLIP, pixel shuffle,
//! and one product into the decoder's width.

use super::siglip;
use crate::bricks::{self, space_to_depth};
use crate::config::{Check, ConfigError};
use crate::dims;
use crate::graph::{Builder, Element, Graph};
use arrcoc_bundle::names::{axis, tensor};
use arrcoc_bundle::{Meaning, Role, Target};

/// Hyperparameters.
#[derive(Debug, Clone)]
pub struct Config {
    /// The transformer.
    pub vision: siglip::Config,
    /// Side of a tile, pixels.
    pub tile: usize,
    /// Patches on the side of a square that becomes one visual token.
    pub scale_factor: usize,
    /// Width of the decoder, H.
    pub hidden_size: usize,
}

impl Config {
    /// Fails where the squares do not fill a tile.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let (grid, scale) = (self.vision.grid(self.tile), self.scale_factor);
        let expected = format!("a divisor of the {grid} patches on a tile's side");
        let whole = scale > 0 && grid.is_multiple_of(scale);
        Check("top level").that(whole, "scale_factor", expected, scale)
    }

    /// Visual tokens on a side of a tile.
    pub fn side(&self) -> usize {
        self.vision.grid(self.tile) / self.scale_factor
    }
}

/// `pixel_values` \[tiles, 3, tile, tile\] to `visual_rows` \[rows, H\]: the tokens of each tile
/// in row-major order, tile after tile.
pub fn graph(config: &Config, prefix: &str, target: Target) -> Graph {
    let mut builder = Builder::new("vision_encoder", Role::Encoder, prefix, target);
    let g = &mut builder;
    let (side, grid) = (config.tile, config.vision.grid(config.tile));
    let pixels = g.input(tensor::PIXEL_VALUES, Element::F32, dims![axis::TILES, 3, side, side]);
    let x = {
        let g = &mut g.scope("vision_model");
        siglip::transformer(g, &config.vision, side, &pixels) // rows [tiles * grid * grid, D]
    };
    let x = space_to_depth(g, &x, [grid, grid], config.scale_factor); // rows of tokens
    let rows = bricks::linear_no_bias(g, "connector.modality_projection.proj", &x, config.hidden_size);
    g.output(tensor::VISUAL_ROWS, Meaning::Network, &rows, dims![axis::ROWS, config.hidden_size]);
    builder.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bricks::Activation;
    use crate::config::Neutral;

    fn config() -> Config {
        let vision = json!({
            "model_type": "smolvlm_vision", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 100, "patch_size": 8,
        });
        Config {
            vision: siglip::Config::from_json(&vision, Neutral(&[])).unwrap(),
            tile: 100,
            scale_factor: 3,
            hidden_size: 40,
        }
    }

    #[test]
    fn tiles_become_rows() {
        for target in Target::ALL {
            let graph = graph(&config(), "model", target);
            let [input] = &graph.inputs[..] else { panic!("{:?}", graph.inputs) };
            let [output] = &graph.outputs[..] else { panic!("{:?}", graph.outputs) };
            assert_eq!((input.name(), input.dims()), ("pixel_values", &dims!["tiles", 3, 100, 100][..]));
            assert_eq!((output.name(), output.dims()), ("visual_rows", &dims!["rows", 40][..]));
            // What the product reads: 4 x 4 tokens of 3 x 3 patches from each tile of 12 x 12.
            let product = graph.nodes.iter().rfind(|node| node.operator == "Gemm").unwrap();
            let squares = graph.values.iter().find(|value| value.name() == &*product.inputs[0]).unwrap();
            let tiles = |axis: &str| (axis == "tiles").then_some(5);
            assert_eq!((squares.dim(0).at(&tiles), squares.dim(1).fixed()), (Some(5 * 16), Some(9 * 32)));
        }
    }

    #[test]
    fn tensors_are_those_of_transformers() {
        let graph = graph(&config(), "model", Target::Portable);
        let shape = |name: &str| {
            let parameter = graph.parameters.iter().find(|parameter| parameter.name == name);
            parameter.map(|parameter| parameter.shape.clone()).unwrap_or_else(|| panic!("no {name}"))
        };
        assert_eq!(graph.parameters.len(), 3 + 2 * 16 + 2 + 1);
        assert_eq!(shape("model.vision_model.embeddings.patch_embedding.weight"), [32, 3, 8, 8]);
        assert_eq!(shape("model.vision_model.embeddings.position_embedding.weight"), [144, 32]);
        assert_eq!(shape("model.vision_model.encoder.layers.1.self_attn.out_proj.bias"), [32]);
        assert_eq!(shape("model.vision_model.encoder.layers.1.mlp.fc1.weight"), [64, 32]);
        assert_eq!(shape("model.vision_model.post_layernorm.weight"), [32]);
        assert_eq!(shape("model.connector.modality_projection.proj.weight"), [40, 288]);
    }

    #[test]
    fn what_a_file_does_not_state_is_the_default_of_its_class() {
        let vision = siglip::Config::from_json(&json!({}), Neutral(&[])).unwrap();
        assert_eq!((vision.hidden_size, vision.intermediate_size, vision.layers), (1152, 3072, 12));
        assert_eq!((vision.heads, vision.grid(224), vision.activation), (16, 7, Activation::GeluTanh));
        let refused = |key: &str, value: serde_json::Value| {
            siglip::Config::from_json(&json!({key: value}), Neutral(&[])).unwrap_err().to_string()
        };
        assert!(
            refused("hidden_size", json!(1150)).contains("vision_config.hidden_size: expected a multiple")
        );
        assert!(refused("model_type", json!("clip")).contains("vision_config.model_type"));
        assert!(
            refused("hidden_act", json!("relu")).contains("vision_config.hidden_act: expected silu, gelu")
        );
    }

    #[test]
    fn squares_fill_a_tile() {
        config().check().unwrap();
        assert_eq!(config().side(), 4);
        for scale_factor in [0, 5, 24] {
            let error = Config { scale_factor, ..config() }.check().unwrap_err().to_string();
            assert!(error.contains("scale_factor: expected a divisor of the 12 patches"), "{error}");
        }
    }
}
