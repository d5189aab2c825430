//! Every kernel against the portable one on random shapes, and the portable one against the definition.

mod blocked;
mod convolution;
mod definition;
mod float;
mod matmul;
mod operators;

use std::io::Write;

use proptest::prelude::*;

use super::*;

/// Numbers from a seed (SplitMix64), so that a failing case shrinks in its shape alone.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }

    pub fn signed(&mut self, length: usize) -> Vec<i8> {
        (0..length).map(|_| self.byte() as i8).collect()
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn real(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// The kernels to test beside the reference; those that this CPU cannot run are named.
pub fn dispatches() -> Vec<Dispatch> {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let missing: Vec<&str> = Isa::ALL.into_iter().filter(|isa| !isa.is_available()).map(Isa::name).collect();
        if !missing.is_empty() {
            // Not by `eprintln`, which the test harness would keep to itself.
            let names = missing.join(", ");
            writeln!(std::io::stderr(), "not tested, because this CPU lacks them: kernels for {names}").unwrap();
        }
    });
    let isas = Isa::available().into_iter().skip(1);
    isas.flat_map(|isa| Arithmetic::ALL.map(|arithmetic| Dispatch { isa, arithmetic })).collect()
}

pub fn reference(arithmetic: Arithmetic) -> Dispatch {
    Dispatch { isa: Isa::Portable, arithmetic }
}

/// A result of any type.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    U8(Vec<u8>),
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Values {
    /// Of the type that an epilogue makes, filled with what no kernel should leave.
    pub fn of(epilogue: &Epilogue, length: usize) -> Values {
        match epilogue {
            Epilogue::Requantize(_) => Values::U8(vec![77; length]),
            Epilogue::Scale(_) => Values::F32(vec![f32::NAN; length]),
            Epilogue::Integer => Values::I32(vec![i32::MIN + 5; length]),
        }
    }

    pub fn output(&mut self) -> Output<'_> {
        match self {
            Values::U8(values) => Output::U8(values),
            Values::F32(values) => Output::F32(values),
            Values::I32(values) => Output::I32(values),
        }
    }
}

/// What follows the sums of a random case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Plain,
    Clamped,
    Residual,
    /// With a multiplier that is too large for the sums to stay integers of 32 bits.
    Huge,
    Scale,
    Integer,
}

pub fn endings() -> impl Strategy<Value = Ending> {
    use Ending::*;
    prop::sample::select(vec![Plain, Clamped, Residual, Huge, Scale, Integer])
}

/// An epilogue whose results are spread over the range, for sums over `depth` products.
pub fn epilogue(noise: &mut Noise, ending: Ending, columns: usize, depth: usize) -> Epilogue {
    let typical = 1.0 / (60.0 * (depth as f32).sqrt());
    let count = if noise.byte() < 64 { 1 } else { columns };
    let mut scales =
        |factor: f32| -> Vec<f32> { (0..count).map(|_| noise.real(0.2, 1.5) * typical * factor).collect() };
    match ending {
        Ending::Integer => Epilogue::Integer,
        Ending::Scale => {
            let scales = scales(1.0);
            let bias = if noise.byte() < 128 { vec![] } else { (0..columns).map(|_| noise.real(-9.0, 9.0)).collect() };
            let clamp = if noise.byte() < 128 { [f32::NEG_INFINITY, f32::INFINITY] } else { [0.0, 6.0] };
            Epilogue::Scale(Scale { scales, bias, clamp })
        }
        _ => {
            let multipliers = scales(if ending == Ending::Huge { 1e7 } else { 1.0 });
            let zero_point = noise.byte();
            let clamp = if ending == Ending::Clamped { [noise.byte() / 4, 128 + noise.byte() / 2] } else { [0, 255] };
            let residual = (ending == Ending::Residual).then(|| Addition {
                ratios: [noise.real(0.1, 1.2), noise.real(0.1, 1.2)],
                offset: noise.real(-90.0, 90.0),
                clamp: [noise.byte() / 8, 255 - noise.byte() / 8],
            });
            Epilogue::Requantize(Requantize { multipliers, zero_point, clamp, residual })
        }
    }
}
