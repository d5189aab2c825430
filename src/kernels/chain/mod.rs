//! Chains of elementwise operators of floats, computed tile by tile, so that what lies between them never leaves the first
//! cache.

mod functions;
mod repeated;

pub use functions::{Binary, Unary};
pub use repeated::Repeated;

/// Elements of a tile at most.
const TILE: usize = 1024;

/// y = f(x) or y = f(a, b)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Unary(Unary),
    Binary(Binary),
}

/// How an operand lies over the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Whole,
    Repeated(Repeated),
}

/// A function of earlier values of a chain: its operands come first, behind them the values of its steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub function: Function,
    pub sources: Vec<usize>,
}

/// Functions of operands and of each other, all of as many elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    length: usize,
    /// Elements of a tile.
    tile: usize,
    operands: Vec<Pattern>,
    steps: Vec<PlacedStep>,
    /// Tiles that hold what does not leave the chain.
    tiles: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PlacedStep {
    function: Function,
    sources: Vec<Place>,
    target: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Operand(usize),
    Result(usize),
    Tile(usize),
}

impl Chain {
    /// `results` are the steps whose values leave the chain.
    pub fn new(shape: &[usize], operands: Vec<Pattern>, steps: Vec<Step>, results: &[usize]) -> Chain {
        // A tile is used again once nobody reads it any more.
        let mut last_reads = vec![0; steps.len()];
        for (index, step) in steps.iter().enumerate() {
            for source in step.sources.iter().filter_map(|source| source.checked_sub(operands.len())) {
                last_reads[source] = index;
            }
        }
        let (mut places, mut owners): (Vec<Place>, Vec<usize>) = Default::default();
        for index in 0..steps.len() {
            let result = results.iter().position(|&result| result == index);
            places.push(result.map_or_else(
                || {
                    let free = owners.iter().position(|&owner| last_reads[owner] < index);
                    let tile = free.unwrap_or_else(|| {
                        owners.push(index);
                        owners.len() - 1
                    });
                    owners[tile] = index;
                    Place::Tile(tile)
                },
                Place::Result,
            ));
        }
        let place = |source: &usize| match source.checked_sub(operands.len()) {
            Some(step) => places[step],
            None => Place::Operand(*source),
        };
        let steps = steps.iter().zip(&places).map(|(step, &target)| PlacedStep {
            function: step.function,
            sources: step.sources.iter().map(place).collect(),
            target,
        });
        let steps = steps.collect();
        let length = shape.iter().product();
        Chain { length, tile: tile_of(shape), operands, steps, tiles: owners.len() }
    }

    /// Writes all of the results.
    pub fn run(&self, operands: &[&[f32]], results: &mut [&mut [f32]]) {
        let mut tiles = vec![vec![0.0; self.tile]; self.tiles];
        let mut repeated = vec![Vec::new(); operands.len()];
        let mut come_again = vec![false; operands.len()];
        for (index, (pattern, values)) in self.operands.iter().zip(operands).enumerate() {
            if let Pattern::Repeated(pattern) = pattern {
                repeated[index].resize(self.tile, 0.0);
                come_again[index] = pattern.comes_again(self.tile);
                if come_again[index] {
                    pattern.fill(values, 0, &mut repeated[index]);
                }
            }
        }
        for start in (0..self.length).step_by(self.tile) {
            let range = start..self.length.min(start + self.tile);
            let count = range.len();
            let sides = self.operands.iter().zip(operands).zip(&mut repeated).zip(&come_again);
            let sides: Vec<&[f32]> = sides
                .map(|(((pattern, values), tile), comes_again)| match pattern {
                    Pattern::Whole => &values[range.clone()],
                    Pattern::Repeated(_) if *comes_again => &tile[..count],
                    Pattern::Repeated(pattern) => pattern.slice(values, start, count).unwrap_or_else(|| {
                        pattern.fill(values, start, &mut tile[..count]);
                        &tile[..count]
                    }),
                })
                .collect();
            for step in &self.steps {
                let mut tile = Vec::new();
                let mut result: &mut [f32] = &mut [];
                let y = match step.target {
                    Place::Tile(index) => {
                        tile = std::mem::take(&mut tiles[index]);
                        &mut tile[..count]
                    }
                    Place::Result(index) => {
                        result = std::mem::take(&mut results[index]);
                        &mut result[range.clone()]
                    }
                    Place::Operand(_) => unreachable!("steps write no operands"),
                };
                let source = |place: Place| match place {
                    Place::Operand(index) => sides[index],
                    Place::Tile(index) => &tiles[index][..count],
                    Place::Result(index) => &results[index][range.clone()],
                };
                match step.function {
                    Function::Unary(unary) => unary.run(source(step.sources[0]), y),
                    Function::Binary(binary) => binary.run(source(step.sources[0]), source(step.sources[1]), y),
                }
                match step.target {
                    Place::Tile(index) => tiles[index] = tile,
                    Place::Result(index) => results[index] = result,
                    Place::Operand(_) => {}
                }
            }
        }
    }
}

/// Elements of a tile: whole rows, if they are short enough, so that operands repeated over rows come again with it.
fn tile_of(shape: &[usize]) -> usize {
    match shape.last() {
        Some(&row) if (1..=TILE).contains(&row) => TILE - TILE % row,
        _ => TILE,
    }
}
