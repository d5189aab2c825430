//! Generates `src/onnx/proto.rs` and `src/onnx/schema.rs` from ONNX's schema; `tools/generate-proto.sh` calls it.
//!
//! Usage: `cargo run --example generate_proto -- onnx-ml.proto VERSION`

use std::fmt::Write;
use std::path::Path;
use std::{env, error, fs};

use protox::prost_reflect::{DescriptorPool, MessageDescriptor};

const SOURCE: &str = "from onnx-ml.proto (SPDX-License-Identifier: Apache-2.0)";

fn main() -> Result<(), Box<dyn error::Error>> {
    let mut args = env::args().skip(1);
    let (Some(proto), Some(version)) = (args.next(), args.next()) else {
        return Err("usage: generate_proto onnx-ml.proto VERSION".into());
    };
    let folder = Path::new(&proto).parent().ok_or("the schema has no folder")?;
    let files = protox::compile([&proto], [folder])?;

    let mut schema = format!("//! The fields of every message, generated {SOURCE} of onnx {version}.\n\n");
    schema += "/// What the schema says of one message.\n";
    schema += "pub struct Message {\n    pub name: &'static str,\n    pub fields: &'static [Field],\n}\n\n";
    schema += "pub struct Field {\n    pub number: u32,\n    pub name: &'static str,\n";
    schema += "    /// The place in [`MESSAGES`] of what the field holds; none for numbers, strings and bytes.\n";
    schema += "    pub message: Option<usize>,\n}\n\n";
    schema += "const fn field(number: u32, name: &'static str, message: Option<usize>) -> Field {\n";
    schema += "    Field { number, name, message }\n}\n\n";
    let pool = DescriptorPool::from_file_descriptor_set(files.clone())?;
    let messages: Vec<_> = pool.all_messages().collect();
    let place = |message: &MessageDescriptor| messages.iter().position(|other| other == message);
    let model = pool.get_message_by_name("onnx.ModelProto").and_then(|model| place(&model)).ok_or("no ModelProto")?;
    writeln!(schema, "/// The root of a file.\npub const MODEL: usize = {model};\n")?;
    writeln!(schema, "pub const MESSAGES: &[Message] = &[")?;
    for message in &messages {
        writeln!(schema, "Message {{ name: {:?}, fields: &[", message.name())?;
        for field in message.fields() {
            let held = field.kind().as_message().and_then(place);
            writeln!(schema, "field({}, {:?}, {held:?}),", field.number(), field.name())?;
        }
        writeln!(schema, "] }},")?;
    }
    writeln!(schema, "];")?;
    fs::write("src/onnx/schema.rs", schema)?;

    let out = env::temp_dir().join(format!("onnxshrink-proto-{}", std::process::id()));
    fs::create_dir_all(&out)?;
    prost_build::Config::new().bytes(["."]).disable_comments(["."]).out_dir(&out).compile_fds(files)?;
    let types = fs::read_to_string(out.join("onnx.rs"))?;
    fs::remove_dir_all(&out)?;
    let docs = format!("//! The messages of an ONNX file, generated {SOURCE} of onnx {version}.\n");
    fs::write("src/onnx/proto.rs", format!("{docs}#![allow(clippy::all)]\n\n{types}"))?;
    Ok(())
}
