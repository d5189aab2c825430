//! Merges batch normalization into the layer before it, or after it where that is exact.
//!
//! At inference a normalization is a map of each channel, x·g + (bias - mean·g) with g = scale / √(var + ε), and a layer
//! W·x + b takes it into W and b. A layer after it takes it too, unless the layer pads: its zeros would be shifted.

use crate::ir::Model;
use crate::ir::op::BatchNormalization;
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Rules, Site};

use super::affine::Affine;
use super::layer::{LAYERS, Layer};

pub const INFO: PassInfo =
    PassInfo::of::<FuseBatchnorm>("fuse-batchnorm", "Merge batch normalization into the layer before or after it");

/// Merges BatchNormalization into Conv, ConvTranspose, Gemm and MatMul: into the layer before it, or into the one after it
/// where that is exact.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FuseBatchnorm {}

impl Pass for FuseBatchnorm {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.apply(model, Rules::new().on(into_layer_before).on_any(LAYERS, into_layer_after));
        Ok(())
    }
}

fn into_layer_before(at: &Site, bn: BatchNormalization) -> Match<Rewrite> {
    require!(at.node().outputs.len() == 1, "its running statistics are results, too");
    let layer = Layer::feeding(at, bn.x)?;
    let map = Affine::of_normalization(at, &bn, layer.outputs(at)?)?;
    let mut new = at.rewrite();
    let operation = layer.then(at, &mut new, &map)?;
    new.replace_root(operation)
}

fn into_layer_after(at: &Site) -> Match<Rewrite> {
    let layer = Layer::read(at, at.root)?;
    let normalized = layer.operand();
    let bn: BatchNormalization = at.producer(normalized).map_err(|_| Miss("no normalization before it"))?;
    at.only_here(normalized)?;
    let mut channels = layer.inputs(at)?;
    channels.rank = channels.rank.or(at.rank(bn.x).ok());
    let map = Affine::of_normalization(at, &bn, channels)?;
    let mut new = at.rewrite();
    let operation = layer.after(at, &mut new, bn.x, &map)?;
    new.replace_root(operation)
}
