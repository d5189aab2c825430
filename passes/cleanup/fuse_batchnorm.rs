//! Merges batch normalization into the convolution that feeds it.

use ndarray::{ArrayD, Axis};

use crate::ir::Model;
use crate::ir::op::{BatchNormalization, Conv};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Rewrite, Rules, Site};

pub const INFO: PassInfo =
    PassInfo::of::<FuseBatchnorm>("fuse-batchnorm", "Merge batch normalization into the preceding layer");

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FuseBatchnorm {}

impl Pass for FuseBatchnorm {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.apply(model, Rules::new().on(into_conv));
        Ok(())
    }
}

/// BN(Conv(x, w, b)) = Conv(x, w·g, (b - mean)·g + bias), where g = scale / √(var + ε).
fn into_conv(at: &Site, bn: BatchNormalization) -> Match<Rewrite> {
    require!(!bn.training_mode, "the normalization is in training mode");
    let conv: Conv = at.feeder(bn.x)?;
    let dtype = at.tensor(conv.w)?.dtype();
    let w = at.weight(conv.w)?;
    let [scale, bias, mean, var] = [bn.scale, bn.bias, bn.mean, bn.var].map(|value| at.reals(value));
    let (scale, bias, mean, var) = (scale?, bias?, mean?, var?);
    let b = conv.b.map_or(Ok(ArrayD::zeros(mean.raw_dim())), |b| at.reals(b))?;

    let gain = scale / (var + f64::from(bn.epsilon)).mapv(f64::sqrt);
    let mut new = at.rewrite();
    let w = new.reals("weight", &w * per_output_channel(&gain, w.ndim()), dtype)?;
    let b = new.reals("bias", (b - mean) * gain + bias, dtype)?;
    new.replace_root(Conv { w, b: Some(b), ..conv })
}

fn per_output_channel(x: &ArrayD<f64>, rank: usize) -> ArrayD<f64> {
    (1..rank).fold(x.clone(), |x, axis| x.insert_axis(Axis(axis)))
}
