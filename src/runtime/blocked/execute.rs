//! The operators of images in blocks, in tract.

use std::borrow::Cow;

use tract_onnx::model::Onnx;
use tract_onnx::tract_core::internal::*;

use super::operators::{self as blocked, GRADIENTS};
use crate::ir::ValueId;
use crate::kernels::blocked::{BLOCK, BlockedConvolution, Finish, FloatIsa, Given, Gradients, from_blocks, to_blocks};
use crate::kernels::{Images, Window};
use crate::runtime::execute::{
    Constants, Execute, Operands, Operator, Shapes, Stateless, filled, register as one, zeroed,
};
use crate::runtime::spare;

/// Makes tract know our operators.
pub(in crate::runtime) fn register(onnx: &mut Onnx) {
    one::<blocked::ToBlocks>(onnx);
    one::<blocked::FromBlocks>(onnx);
    one::<blocked::BlockedConv>(onnx);
    one::<blocked::BlockedConvGradient>(onnx);
}

/// Images of the shape [batch, channels, space..].
fn plain(shape: &[usize]) -> TractResult<Images> {
    match *shape {
        [batch, channels, width] => Ok(Images { batch, size: [1, width], channels }),
        [batch, channels, height, width] => Ok(Images { batch, size: [height, width], channels }),
        _ => bail!("an image of {} axes", shape.len()),
    }
}

fn lengths(shape: &[TDim]) -> TractResult<TVec<usize>> {
    shape.iter().map(|n| Ok(n.to_usize()?)).collect()
}

fn in_blocks<D: DimLike + From<usize>>(batch: &D, channels: D, size: [D; 2]) -> TVec<D> {
    let [height, width] = size;
    tvec![batch.clone(), channels.divceil(BLOCK), height, width, BLOCK.into()]
}

/// The images that are kept in blocks of this shape.
pub(in crate::runtime) fn kept(shape: &[usize], channels: usize) -> TractResult<Images> {
    match *shape {
        [batch, blocks, height, width, BLOCK] if blocks == channels.div_ceil(BLOCK) => {
            Ok(Images { batch, size: [height, width], channels })
        }
        _ => bail!("{channels} channels in {shape:?}"),
    }
}

impl Stateless for blocked::ToBlocks {
    fn result_type(&self) -> DatumType {
        DatumType::F32
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        match &shapes[self.x] {
            [batch, channels, width] => Ok(in_blocks(batch, channels.clone(), [1.into(), width.clone()])),
            [batch, channels, height, width] => Ok(in_blocks(batch, channels.clone(), [height.clone(), width.clone()])),
            other => bail!("an image of {} axes", other.len()),
        }
    }

    fn run(&self, operands: &Operands) -> TractResult<Tensor> {
        let images = plain(operands.shape(self.x))?;
        let x = operands.elements(self.x)?;
        zeroed(&in_blocks(&images.batch, images.channels, images.size), |y| to_blocks(&images, x, y))
    }
}

impl Stateless for blocked::FromBlocks {
    fn result_type(&self) -> DatumType {
        DatumType::F32
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let [batch, _, height, width, _] = &shapes[self.x] else { bail!("no blocks") };
        let mut shape = tvec![batch.clone(), self.channels.into(), height.clone(), width.clone()];
        if self.rank == 3 {
            shape.remove(2);
        }
        Ok(shape)
    }

    fn run(&self, operands: &Operands) -> TractResult<Tensor> {
        let images = kept(operands.shape(self.x), self.channels as usize)?;
        let x = operands.elements(self.x)?;
        let Images { batch, size: [height, width], channels } = images;
        let shape = if self.rank == 3 { tvec![batch, channels, width] } else { tvec![batch, channels, height, width] };
        filled(&shape, |y| from_blocks(&images, x, y))
    }
}

/// What both operators of a convolution say of it.
struct Attributes<'a> {
    channels: i64,
    group: i64,
    strides: &'a [i64],
    dilations: &'a [i64],
    pads: &'a [i64],
}

impl Attributes<'_> {
    fn convolution(&self, w: &[TDim]) -> TractResult<BlockedConvolution> {
        let w = lengths(w)?;
        let (outputs, kernel) = match *w {
            [outputs, _, width] => (outputs, [1, width]),
            [outputs, _, height, width] => (outputs, [height, width]),
            _ => bail!("weights of {} axes", w.len()),
        };
        let sizes = |ints: &[i64]| ints.iter().map(|&n| Ok(usize::try_from(n)?)).collect::<TractResult<TVec<usize>>>();
        let ([down, right], [far_down, far_right], [top, left, bottom, after]) =
            (&sizes(self.strides)?[..], &sizes(self.dilations)?[..], &sizes(self.pads)?[..])
        else {
            bail!("a window of other than two axes")
        };
        let window = Window {
            kernel,
            strides: [*down, *right],
            dilations: [*far_down, *far_right],
            pads: [*top, *left, *bottom, *after],
        };
        let convolution = BlockedConvolution::new(
            FloatIsa::best(),
            window,
            self.group.try_into()?,
            self.channels.try_into()?,
            outputs,
        );
        convolution.with_context(|| format!("a convolution of {} groups", self.group))
    }
}

impl blocked::BlockedConv {
    fn attributes(&self) -> Attributes<'_> {
        let blocked::BlockedConv { channels, group, ref strides, ref dilations, ref pads, .. } = *self;
        Attributes { channels, group, strides, dilations, pads }
    }
}

impl blocked::BlockedConvGradient {
    fn attributes(&self) -> Attributes<'_> {
        let blocked::BlockedConvGradient { channels, group, ref strides, ref dilations, ref pads, .. } = *self;
        Attributes { channels, group, strides, dilations, pads }
    }
}

/// One for each channel, filled up to whole blocks.
fn whole_blocks(channels: &[f32]) -> Vec<f32> {
    let mut whole = channels.to_vec();
    whole.resize(channels.len().next_multiple_of(BLOCK), 0.0);
    whole
}

/// A convolution, and its weights where they are constant: packed once.
pub(in crate::runtime) struct Packed {
    convolution: BlockedConvolution,
    weights: Option<Vec<f32>>,
}

impl Execute for blocked::BlockedConv {
    type Prepared = Packed;

    fn constants(&self) -> Vec<ValueId> {
        vec![self.w]
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Packed> {
        let convolution = self.attributes().convolution(&shapes[self.w])?;
        let weights = constants.has(self.w).then(|| constants.elements(self.w)).transpose()?;
        Ok(Packed { convolution, weights: weights.map(|weights| convolution.pack_forward(weights)) })
    }

    fn result_type(&self) -> DatumType {
        DatumType::F32
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let shape = lengths(&shapes[self.x])?;
        let convolution = self.attributes().convolution(&shapes[self.w])?;
        let output = convolution.output(&kept(&shape, self.channels as usize)?);
        Ok(in_blocks(&output.batch, output.channels, output.size).iter().map(TDim::from).collect())
    }

    fn run(&self, Packed { convolution, weights }: &Packed, operands: &Operands) -> TractResult<Tensor> {
        let images = kept(operands.shape(self.x), self.channels as usize)?;
        let output = convolution.output(&images);
        let x = operands.elements(self.x)?;
        let weights = match weights {
            Some(weights) => Cow::Borrowed(weights),
            None => Cow::Owned(convolution.pack_forward(operands.elements(self.w)?)),
        };
        let bias = self.bias.map(|bias| TractResult::Ok(whole_blocks(operands.elements(bias)?))).transpose()?;
        let residual = self.residual.map(|residual| operands.elements(residual)).transpose()?;
        let finish = Finish { bias: bias.as_deref(), residual, clamp: [self.low, self.high] };
        let mut y = spare::tensor(&in_blocks(&output.batch, output.channels, output.size))?;
        convolution.forward(&images, x, &weights, &finish, y.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
        Ok(y)
    }
}

impl Operator for blocked::BlockedConvGradient {
    type Prepared = BlockedConvolution;

    const RESULTS: usize = GRADIENTS;

    fn constants(&self) -> Vec<ValueId> {
        Vec::new()
    }

    fn prepare(&self, _: &Constants, shapes: &Shapes) -> TractResult<BlockedConvolution> {
        self.attributes().convolution(&shapes[self.w])
    }

    fn results(&self, shapes: &Shapes) -> TractResult<TVec<(DatumType, TVec<TDim>)>> {
        let w = &shapes[self.w];
        let all: [&[TDim]; GRADIENTS] = [&shapes[self.x], w, &w[..1], &shapes[self.dy]];
        let given = |(index, shape): (usize, &[TDim])| {
            let shape: TVec<TDim> = if self.gives(index) { shape.into() } else { tvec![0.into()] };
            (DatumType::F32, shape)
        };
        Ok(all.into_iter().enumerate().map(given).collect())
    }

    fn run(&self, convolution: &BlockedConvolution, operands: &Operands) -> TractResult<TVec<Tensor>> {
        let images = kept(operands.shape(self.x), self.channels as usize)?;
        let weights = match self.gives(0) {
            true => convolution.pack_backward(operands.elements(self.w)?),
            false => Vec::new(),
        };
        let given = Given {
            x: operands.elements(self.x)?,
            y: self.y.map(|y| operands.elements(y)).transpose()?.unwrap_or_default(),
            clamp: [self.low, self.high],
            dy: operands.elements(self.dy)?,
            weights: &weights,
        };
        let empty = || Tensor::zero_dt(DatumType::F32, &[0]);
        let sum = self.sum.filter(|_| self.gives(0));
        let mut of_x = match sum {
            Some(sum) => operands.tensor(sum).clone(),
            None if self.gives(0) => Tensor::zero_dt(DatumType::F32, operands.shape(self.x))?,
            None => empty()?,
        };
        let mut of_residual = match self.gives(3) {
            true => Tensor::zero_dt(DatumType::F32, operands.shape(self.dy))?,
            false => empty()?,
        };
        let channels = operands.shape(self.w)[0];
        let mut summed = vec![0.0; convolution.gradient_length()];
        let mut of_bias = vec![0.0; channels.next_multiple_of(BLOCK)];
        let (mut plain_x, mut plain_residual) = (of_x.try_as_plain_ram_mut()?, of_residual.try_as_plain_ram_mut()?);
        let x = Some(plain_x.as_slice_mut::<f32>()?).filter(|_| self.gives(0));
        let residual = Some(plain_residual.as_slice_mut::<f32>()?).filter(|_| self.gives(3));
        let adds_x = sum.is_some();
        let mut gradients = Gradients { x, adds_x, weights: &mut summed, bias: &mut of_bias, residual };
        convolution.backward(&images, &given, &mut gradients);
        let of_weights = match self.gives(1) {
            true => zeroed(operands.shape(self.w), |w| convolution.weight_gradient(&summed, w))?,
            false => empty()?,
        };
        let of_bias = match self.gives(2) {
            true => filled(&[channels], |b: &mut [f32]| b.copy_from_slice(&of_bias[..channels]))?,
            false => empty()?,
        };
        Ok(tvec![of_x, of_weights, of_bias, of_residual])
    }
}

impl blocked::BlockedConvGradient {
    fn gives(&self, index: usize) -> bool {
        self.gives.contains(&(index as i64))
    }
}
