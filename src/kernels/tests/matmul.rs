use super::definition::{dot, finish};
use super::*;

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    shape: MatMulShape,
    /// Elements between rows beyond their ends.
    gaps: [usize; 3],
    ending: Ending,
    signed: bool,
    symmetric: bool,
    /// Whether weights are so small that their products fit into fewer bits.
    small: bool,
    seed: u64,
}

fn cases(rows: std::ops::Range<usize>) -> impl Strategy<Value = Case> {
    let gaps = [0usize..5, 0usize..5, 0usize..5];
    let shape = (1usize..80, 1usize..150, any::<bool>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (rows, shape, gaps, endings(), flags, any::<u64>()).prop_map(
        |(rows, (depth, columns, transposed), gaps, ending, (signed, symmetric, small), seed)| {
            let shape = MatMulShape { depth, columns, transposed };
            Case { rows, shape, gaps, ending, signed, symmetric, small, seed }
        },
    )
}

fn constant(case: &Case, dispatches: &[Dispatch]) -> Result<(), TestCaseError> {
    let mut noise = Noise::new(case.seed);
    let MatMulShape { depth, columns, transposed } = case.shape;
    let stride = depth + case.gaps[0];
    let a = noise.bytes(case.rows * stride);
    let mut weights = noise.signed(depth * columns);
    if case.small {
        weights.iter_mut().for_each(|weight| *weight /= 4);
    }
    let bias: Vec<i32> = (0..columns).map(|_| noise.below(9000) as i32 - 4500).collect();
    let residual = (case.ending == Ending::Residual).then(|| noise.bytes(case.rows * columns));
    let parameters = Parameters {
        weights: Weights::signed(&weights),
        bias: Some(&bias),
        x_zero_point: noise.byte(),
        epilogue: epilogue(&mut noise, case.ending, columns, depth),
    };
    for arithmetic in Arithmetic::ALL {
        let mut expected = Values::of(&parameters.epilogue, case.rows * columns);
        for row in 0..case.rows {
            for column in 0..columns {
                let w =
                    |k: usize| i32::from(weights[if transposed { column * depth + k } else { k * columns + column }]);
                let products: Vec<i32> = (0..depth).map(|k| i32::from(a[row * stride + k]) * w(k)).collect();
                let zeros = (0..depth).map(w).sum::<i32>() * i32::from(parameters.x_zero_point);
                let (sum, at) = (dot(&products, arithmetic) + bias[column] - zeros, row * columns + column);
                finish(&parameters.epilogue, column, sum, residual.as_ref().map(|r| r[at]), &mut expected, at);
            }
        }
        for &dispatch in dispatches.iter().filter(|dispatch| dispatch.arithmetic == arithmetic) {
            let mut values = Values::of(&parameters.epilogue, case.rows * columns);
            let view = MatrixView { values: &a, rows: case.rows, stride };
            MatMul::new(dispatch, case.shape, &parameters).run(view, residual.as_deref(), values.output());
            prop_assert_eq!(&values, &expected, "{:?}", dispatch);
        }
    }
    Ok(())
}

fn activations(case: &Case, dispatches: &[Dispatch]) -> Result<(), TestCaseError> {
    let mut noise = Noise::new(case.seed);
    let MatMulShape { depth, columns, transposed } = case.shape;
    let (b_rows, b_columns) = if transposed { (columns, depth) } else { (depth, columns) };
    let [a_stride, b_stride, stride] = [depth + case.gaps[0], b_columns + case.gaps[1], columns + case.gaps[2]];
    let (a, b) = (noise.bytes(case.rows * a_stride), noise.bytes(b_rows * b_stride));
    let (a_zero_point, b_zero_point) = (noise.byte(), if case.symmetric { 128 } else { noise.byte() });
    let ending = if case.ending == Ending::Residual { Ending::Plain } else { case.ending };
    let mut epilogue = epilogue(&mut noise, ending, 1, depth);
    if let Epilogue::Scale(scale) = &mut epilogue {
        scale.bias.clear();
    }
    for arithmetic in Arithmetic::ALL {
        let saturates = case.signed && b_zero_point == 128;
        let sums = if saturates { arithmetic } else { Arithmetic::Exact };
        let mut expected = Values::of(&epilogue, case.rows * stride);
        for row in 0..case.rows {
            for column in 0..columns {
                let at = |k: usize| if transposed { column * b_stride + k } else { k * b_stride + column };
                let w = |k: usize| i32::from(b[at(k)]) - i32::from(b_zero_point);
                let products: Vec<i32> = (0..depth).map(|k| i32::from(a[row * a_stride + k]) * w(k)).collect();
                let zeros = (0..depth).map(w).sum::<i32>() * i32::from(a_zero_point);
                finish(&epilogue, column, dot(&products, sums) - zeros, None, &mut expected, row * stride + column);
            }
        }
        for &dispatch in dispatches.iter().filter(|dispatch| dispatch.arithmetic == arithmetic) {
            let mut values = Values::of(&epilogue, case.rows * stride);
            let product = ActivationMatMul {
                dispatch,
                shape: case.shape,
                a_zero_point,
                b_zero_point,
                b_is_signed: case.signed,
                epilogue: epilogue.clone(),
            };
            let a = MatrixView { values: &a, rows: case.rows, stride: a_stride };
            let b = MatrixView { values: &b, rows: b_rows, stride: b_stride };
            product.run(a, b, values.output(), stride);
            // Not a number is not equal to itself, and stands between rows.
            prop_assert_eq!(format!("{values:?}"), format!("{expected:?}"), "{:?}", dispatch);
        }
    }
    Ok(())
}

fn all() -> Vec<Dispatch> {
    Arithmetic::ALL.map(reference).into_iter().chain(dispatches()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn products_with_weights_are_sums_of_products(case in cases(0..40)) {
        constant(&case, &all())?;
    }

    #[test]
    fn a_single_row_is_like_many(case in cases(1..2)) {
        constant(&case, &all())?;
    }

    #[test]
    fn products_of_activations_are_sums_of_products(case in cases(0..40)) {
        activations(&case, &all())?;
    }
}
