//! The text form of models: what is printed is read back as the same model, and errors say where and what.

use bytes::Bytes;
use onnxshrink::ir::text::PrintOptions;
use onnxshrink::ir::{
    Attr, AttrKind, Attrs, DType, Dim, Function, GraphId, Initializer, Label, Model, Notes, Operation, OpsetImports,
    QuantizationAnnotation, Size, SparseTensor, Tensor, TensorType, Type, TypeKind, ValueId,
};

fn whole(model: &Model) -> String {
    model.print(&PrintOptions::whole()).text
}

/// Prints, parses, checks that the result is well formed and prints the same, and returns it.
#[track_caller]
fn assert_round_trip(model: &Model) -> Model {
    let text = whole(model);
    let parsed = Model::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    parsed.verify().unwrap();
    assert_eq!(whole(&parsed), text);
    parsed
}

fn notes(doc: &str) -> Notes {
    Notes { doc: doc.into(), metadata: vec![("key".into(), "a\n\"b\"".into()), ("key".into(), String::new())] }
}

fn operation(op: &str, inputs: &[Option<ValueId>], attrs: &[(&str, Attr)]) -> Operation {
    let attrs = attrs.iter().map(|(name, attr)| (name.to_string(), attr.clone())).collect();
    Operation { op: op.into(), inputs: inputs.to_vec(), attrs, ..Operation::default() }
}

/// A model with one node `op` that has these attributes.
fn model_with(attrs: &[(&str, Attr)]) -> Model {
    let mut model = Model::new("main");
    let y = model.append(model.main, "y", operation("Op", &[], attrs));
    model.add_output(model.main, y);
    model
}

/// The attributes of the first node of the model that was printed and parsed.
#[track_caller]
fn parsed_attrs(model: &Model) -> Attrs {
    let parsed = assert_round_trip(model);
    let node = parsed.nodes_of(parsed.main).next().unwrap();
    parsed.node(node).attrs.clone()
}

#[test]
fn the_short_forms_of_the_syntax_are_read() {
    let model = Model::parse(
        r#"
        <ir_version: 10, opset_import: ["": 21]>
        agraph (float[N, 2] X, float[2,1] W = {1, 2.5}, float B) => (float[N, 1] C) <float[N,1] T> {
            [first] T = MatMul(X, W)   # to the end of the line
            S, , "" = com.microsoft.Fused:v2 <alpha: float = 2, axes = [0, -1], pads: ints = []> (T, , B,)
            C = Softmax(S) <axis = -1>
        }
        <domain: "local", opset_import: ["": 21]>
        f <alpha, beta: float = 1.0> (x, float[2] y) => (z) { z = Add(x, y) }
        "#,
    )
    .unwrap();
    model.verify().unwrap();
    let nodes: Vec<_> = model.nodes_of(model.main).map(|id| model.node(id)).collect();
    assert_eq!(
        (nodes[1].domain.as_str(), nodes[1].op.as_str(), nodes[1].overload.as_str()),
        ("com.microsoft", "Fused", "v2")
    );
    assert_eq!(nodes[1].inputs.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(nodes[1].outputs.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(nodes[1].attrs["alpha"], Attr::Float(2.0));
    assert_eq!(nodes[1].attrs["pads"], Attr::Ints(vec![]));
    assert_eq!(model.functions[0].required_attrs, ["alpha"]);
    assert_round_trip(&model);
}

#[test]
fn every_element_type_keeps_its_bits() {
    for &dtype in DType::ALL {
        let tensor = match dtype {
            DType::String => {
                let strings = ["", "a\"\\b", "line\nbreak", "ünï"].map(|s| Bytes::copy_from_slice(s.as_bytes()));
                Tensor::from_strings(vec![4], strings.to_vec()).unwrap()
            }
            _ => {
                let bytes: Vec<u8> = (0..dtype.bytes_for(35).unwrap()).map(|i| (i * 37 % 251) as u8).collect();
                Tensor::new(dtype, vec![5, 7], bytes.into()).unwrap()
            }
        };
        let mut model = model_with(&[("value", Attr::Tensor(tensor.clone()))]);
        let w = model.add_constant(model.main, "w", tensor.clone());
        model.add_output(model.main, w);
        let parsed = assert_round_trip(&model);
        let w = parsed.graph(parsed.main).outputs[1];
        assert!(parsed.constant(w).unwrap().same_data(&tensor), "{dtype}");
        assert_eq!(parsed_attrs(&model)["value"], Attr::Tensor(tensor), "{dtype}");
    }
}

#[test]
fn special_floats_and_odd_nans_keep_their_bits() {
    let bits =
        [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xffff_ffff, 0x7f80_0000, 0xff80_0000, 0x8000_0000, 1, 0x7f7f_ffff];
    let floats = bits.map(f32::from_bits).to_vec();
    let wide: Vec<f64> = [u64::MAX, 0x7ff0_0000_0000_0001, 0x8000_0000_0000_0000, 3].map(f64::from_bits).to_vec();
    let model = model_with(&[
        ("value", Attr::Tensor(Tensor::from_vec(vec![9], floats.clone()))),
        ("wide", Attr::Tensor(Tensor::from_vec(vec![4], wide.clone()))),
        ("floats", Attr::Floats(floats.clone())),
        ("float", Attr::Float(floats[2])),
    ]);
    let attrs = parsed_attrs(&model);
    let (Attr::Floats(list), Attr::Float(one)) = (&attrs["floats"], &attrs["float"]) else { panic!("{attrs:?}") };
    assert_eq!(list.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
    assert_eq!(one.to_bits(), bits[2]);
    let Attr::Tensor(tensor) = &attrs["value"] else { panic!("{attrs:?}") };
    assert!(tensor.same_data(&Tensor::from_vec(vec![9], floats)));
    let Attr::Tensor(tensor) = &attrs["wide"] else { panic!("{attrs:?}") };
    assert!(tensor.same_data(&Tensor::from_vec(vec![4], wide)));
}

#[test]
fn every_kind_of_attribute_is_kept() {
    let any_bytes = Bytes::from_static(b"\xff\x00\"\\\n");
    let label = Label { name: "odd name".into(), notes: notes("of a tensor") };
    let mut labelled = Tensor::from_ints(&[1, 2]);
    labelled.label = Some(label.into());
    let strings = Tensor::from_strings(vec![2], vec![any_bytes.clone(), Bytes::new()]).unwrap();
    let sparse = SparseTensor { values: labelled.clone(), indices: Tensor::from_ints(&[0, 4]), shape: vec![3, 3] };
    let ty = Type::tensor(DType::F32, [Size::Fixed(3), Size::Symbol("a b".into()), Size::Unknown]);
    let reference = |kind| Attr::Reference { name: "of the call".into(), kind };
    let attrs = [
        ("float", Attr::Float(1.0)),
        ("int", Attr::Int(i64::MIN)),
        ("str", Attr::Str(any_bytes.clone())),
        ("tensor", Attr::Tensor(labelled.clone())),
        ("strings", Attr::Tensor(strings.clone())),
        ("sparse", Attr::SparseTensor(sparse.clone())),
        ("type", Attr::Type(ty.clone())),
        ("floats", Attr::Floats(vec![0.1, -0.0, 1e30])),
        ("ints", Attr::Ints(vec![1, -2])),
        ("strs", Attr::Strs(vec![Bytes::new(), any_bytes, Bytes::from_static(b"inf")])),
        ("tensors", Attr::Tensors(vec![labelled, strings, Tensor::scalar(1u8)])),
        ("sparses", Attr::SparseTensors(vec![sparse.clone(), sparse])),
        ("types", Attr::Types(vec![ty, TypeKind::Unknown.into()])),
        ("reference", reference(AttrKind::Ints)),
        ("untyped reference", reference(AttrKind::Undefined)),
        ("", Attr::Int(0)),
        ("no_floats", Attr::Floats(vec![])),
        ("no_ints", Attr::Ints(vec![])),
        ("no_strs", Attr::Strs(vec![])),
        ("no_tensors", Attr::Tensors(vec![])),
        ("no_graphs", Attr::Graphs(vec![])),
        ("no_sparses", Attr::SparseTensors(vec![])),
        ("no_types", Attr::Types(vec![])),
    ];
    let parsed = parsed_attrs(&model_with(&attrs));
    assert_eq!(parsed.len(), attrs.len());
    for (name, attr) in attrs {
        assert_eq!(parsed[name], attr, "{name}");
    }
}

#[test]
fn every_type_is_kept() {
    let image = Type { denotation: "IMAGE".into(), ..Type::tensor(DType::F16, [Size::Fixed(-1)]) };
    let dims = vec![Dim { size: Size::Symbol("N".into()), denotation: "DATA_BATCH".into() }, Dim::default()];
    let boxed = |ty: &Type| Some(Box::new(ty.clone()));
    let kinds = [
        TypeKind::Tensor(TensorType::default()),
        TypeKind::Tensor(TensorType { dtype: Some(DType::I4), shape: None }),
        TypeKind::Tensor(TensorType { dtype: Some(DType::I4), shape: Some(vec![]) }),
        TypeKind::Tensor(TensorType { dtype: None, shape: Some(dims.clone()) }),
        TypeKind::SparseTensor(TensorType { dtype: Some(DType::F32), shape: Some(dims) }),
        TypeKind::Sequence(None),
        TypeKind::Sequence(boxed(&image)),
        TypeKind::Sequence(boxed(&TypeKind::Unknown.into())),
        TypeKind::Optional(boxed(&TypeKind::Sequence(boxed(&Type::tensor(DType::Bool, []))).into())),
        TypeKind::Map(Some(DType::I64), boxed(&Type::tensor(DType::F32, []))),
        TypeKind::Map(Some(DType::String), None),
        TypeKind::Map(None, boxed(&image)),
        TypeKind::Opaque { domain: "ai.onnx".into(), name: "Rng".into() },
        TypeKind::Opaque { domain: "odd domain".into(), name: String::new() },
        TypeKind::Opaque { domain: String::new(), name: "a.b".into() },
        TypeKind::Opaque { domain: String::new(), name: String::new() },
        TypeKind::Unknown,
    ];
    let mut model = Model::new("main");
    for (index, kind) in kinds.iter().enumerate() {
        let input = model.add_input(model.main, &format!("x{index}"));
        model.set_type(input, Some(kind.clone().into()));
    }
    let denoted = model.add_input(model.main, "denoted");
    model.set_type(denoted, Some(image.clone()));
    model.add_input(model.main, "untyped");
    let parsed = assert_round_trip(&model);
    let types: Vec<_> = parsed.graph(parsed.main).inputs.iter().map(|&input| parsed.value(input).ty.clone()).collect();
    let expected = kinds.map(|kind| Some(kind.into())).into_iter().chain([Some(image), None]);
    assert_eq!(types, expected.collect::<Vec<_>>());
}

#[test]
fn odd_names_are_kept() {
    for name in ["/conv1/Conv_output_0", "a b", "float", "seq", "nan", "in\"ner\\", "0", "ünï", "a,b)", "# @doc"] {
        let mut model = Model::new(name);
        let x = model.add_input(model.main, name);
        let operation = Operation { domain: name.into(), overload: name.into(), ..operation(name, &[Some(x)], &[]) };
        let y = model.append(model.main, &format!("{name}y"), operation);
        model.add_output(model.main, y);
        let parsed = assert_round_trip(&model);
        let node = parsed.node(parsed.nodes_of(parsed.main).next().unwrap());
        assert_eq!((&*node.domain, &*node.op, &*node.overload), (name, name, name));
        assert_eq!(node.name, format!("{name}y"));
        assert_eq!(parsed.value(parsed.graph(parsed.main).inputs[0]).name, name);
        assert_eq!(parsed.graph(parsed.main).name, name);
    }
}

#[test]
fn names_are_made_unique_and_outputs_keep_theirs() {
    let mut model = Model::new("main");
    let x = model.add_input(model.main, "x");
    let a = model.append(model.main, "y", operation("Relu", &[Some(x)], &[]));
    let b = model.append(model.main, "", operation("Relu", &[Some(a)], &[]));
    let y = model.append(model.main, "y", operation("Relu", &[Some(b)], &[]));
    model.add_output(model.main, y);
    let parsed = assert_round_trip(&model);
    assert_eq!(parsed.value(parsed.graph(parsed.main).outputs[0]).name, "y");
}

fn branch(model: &mut Model, graph_name: &str, captured: ValueId) -> GraphId {
    let body = model.add_graph(graph_name);
    let w = model.add_constant(body, "w", Tensor::scalar(2f32));
    let y = model.append(body, "local", operation("Mul", &[Some(captured), Some(w)], &[]));
    model.add_output(body, y);
    body
}

/// Everything that a model can say, in one model.
fn rich() -> Model {
    let mut model = Model::new("main graph");
    let main = model.main;
    model.opsets = OpsetImports([("".to_string(), 21), ("my-domain".to_string(), 1)].into());
    model.header.ir_version = 11;
    model.header.producer_name = "py \"torch\"".into();
    model.header.producer_version = "2".into();
    model.header.domain = "org".into();
    model.header.model_version = -3;
    model.header.notes = notes("first\nsecond");
    model.header.training_info = vec![Bytes::from_static(b"\x08\x01"), Bytes::new()];
    model.header.device_configurations = vec![Bytes::from_static(b"\x0a\x00")];
    *model.graph_mut(main).notes = notes("of the graph");
    model.graph_mut(main).quantization_annotations.push(QuantizationAnnotation {
        tensor: "x".into(),
        parameters: vec![("SCALE_TENSOR".into(), "s".into()), ("ZERO_POINT_TENSOR".into(), "z".into())],
    });
    let x = model.add_input(main, "x");
    model.set_type(x, Some(Type::tensor(DType::F32, [Size::Symbol("N".into())])));
    *model.value_notes_mut(x) = notes("of x");
    let late = model.add_input(main, "late default");
    let w = model.add_constant(main, "w", Tensor::from_vec(vec![2], vec![1f32, 2.0]));
    model.set_type(w, Some(Type::tensor(DType::F32, [Size::Fixed(2)])));
    *model.value_notes_mut(w) = notes("of w");
    let mut labelled = Tensor::from_ints(&[]);
    labelled.label = Some(Label { name: String::new(), notes: notes("of the tensor") }.into());
    model.set_default(late, Initializer::Dense(labelled));
    let sparse = SparseTensor {
        values: Tensor::scalar(1f32).reshaped(vec![1]).unwrap(),
        indices: Tensor::from_ints(&[2]),
        shape: vec![4],
    };
    let s = model.add_sparse_constant(main, "s", sparse.clone());
    let sparse_default = model.add_input(main, "sparse_default");
    model.set_default(sparse_default, Initializer::Sparse(sparse));

    let branches = [branch(&mut model, "then", x), branch(&mut model, "else branch", w)];
    let attrs =
        [("then_branch", Attr::Graph(branches[0])), ("else_branch", Attr::Graph(branches[1])), ("n", Attr::Int(3))];
    *model.graph_mut(branches[1]).notes = notes("of the branch");
    let chosen =
        model.append_node(main, "/if", operation("If", &[Some(x)], &attrs), &[Some("z"), None, Some("z2"), None]);
    *model.node_notes_mut(chosen).notes = notes("of the node");
    model.node_notes_mut(chosen).attr_docs.push(("n".into(), "of the attribute".into()));
    model.node_notes_mut(chosen).device_configurations.push(Bytes::from_static(b"\x10\x02"));
    let outputs = model.node(chosen).outputs.clone();
    *model.value_notes_mut(outputs[0].unwrap()) = notes("of z");
    model.set_type(outputs[2].unwrap(), Some(TypeKind::Sequence(None).into()));
    let lists = [branch(&mut model, "a", x), branch(&mut model, "", x)];
    model.append_node(
        main,
        "",
        operation("Bodies", &[None, Some(s)], &[("bodies", Attr::Graphs(lists.to_vec()))]),
        &[],
    );
    for output in [outputs[0].unwrap(), x, outputs[0].unwrap(), w] {
        model.add_output(main, output);
    }

    let body = model.add_graph("f");
    let a = model.add_input(body, "a");
    let factor = Attr::Reference { name: "factor".into(), kind: AttrKind::Float };
    let b = model.append(body, "b", operation("Scale", &[Some(a)], &[("factor", factor)]));
    model.set_type(b, Some(Type::tensor(DType::F32, [])));
    model.add_output(body, b);
    *model.graph_mut(body).notes = notes("of the function");
    model.add_function(Function {
        domain: "my-domain".into(),
        name: "f".into(),
        overload: "one".into(),
        body,
        opsets: OpsetImports([("".to_string(), 21)].into()),
        required_attrs: vec!["factor".into(), "odd attr".into()],
        default_attrs: [("k".to_string(), Attr::Ints(vec![1]))].into(),
    });
    model
}

#[test]
fn all_that_a_model_can_say_is_kept() {
    let model = rich();
    model.verify().unwrap();
    let parsed = assert_round_trip(&model);
    assert_eq!(parsed.header, model.header);
    assert_eq!(parsed.opsets, model.opsets);
    let graphs = |model: &Model| -> Vec<_> {
        let mut graphs: Vec<_> = model
            .all_graphs()
            .map(|graph| {
                let graph = model.graph(graph);
                (graph.name.clone(), graph.notes.clone(), graph.quantization_annotations.clone(), graph.outputs.len())
            })
            .collect();
        graphs.sort_by(|a, b| a.0.cmp(&b.0));
        graphs
    };
    assert_eq!(graphs(&parsed), graphs(&model));
    let values = |model: &Model| -> Vec<_> {
        model
            .initializers_of(model.main)
            .map(|id| {
                let value = model.value(id);
                (value.name.clone(), value.ty.clone(), value.notes.clone(), format!("{:?}", value.def))
            })
            .collect()
    };
    assert_eq!(values(&parsed), values(&model));
    let nodes = |model: &Model| -> Vec<_> {
        model
            .nodes_of(model.main)
            .map(|id| {
                let node = model.node(id);
                let attrs: Vec<_> = node.attrs.keys().cloned().collect();
                let about = (node.notes.clone(), node.attr_docs.clone(), node.device_configurations.clone());
                (node.name.clone(), attrs, node.inputs.len(), node.outputs.len(), about)
            })
            .collect()
    };
    assert_eq!(nodes(&parsed), nodes(&model));
    let (f, g) = (&parsed.functions[0], &model.functions[0]);
    assert_eq!((&f.domain, &f.name, &f.overload, &f.opsets), (&g.domain, &g.name, &g.overload, &g.opsets));
    assert_eq!((&f.required_attrs, &f.default_attrs), (&g.required_attrs, &g.default_attrs));
    assert_eq!(parsed.graph(f.body).notes, model.graph(g.body).notes);
}

#[test]
fn large_tensors_go_to_the_external_file() {
    let mut model = model_with(&[("value", Attr::Tensor(Tensor::from_vec(vec![300], vec![0.5f32; 300])))]);
    let ints: Vec<i64> = (0..1001).collect();
    let w = model.add_constant(model.main, "w", Tensor::from_ints(&ints));
    model.add_output(model.main, w);
    let printed = model.print(&PrintOptions::external("w.bin"));
    assert!(printed.text.len() < 400, "{}", printed.text);
    let file = printed.external.concat();
    let load = |external: &onnxshrink::ir::text::ExternalData| {
        assert_eq!(external.location, "w.bin");
        let start = external.offset as usize;
        Ok(Bytes::copy_from_slice(&file[start..start + external.length.unwrap() as usize]))
    };
    let parsed = Model::parse_with(&printed.text, load).unwrap();
    assert_eq!(whole(&parsed), whole(&model));
    assert!(Model::parse(&printed.text).err().unwrap().what.contains("w.bin"));
}

#[test]
fn a_dump_elides_large_tensors_and_is_no_model() {
    let mut model = Model::new("main");
    let w = model.add_constant(model.main, "w", Tensor::from_vec(vec![500], vec![0.5f32; 500]));
    model.add_output(model.main, w);
    let dump = model.to_string();
    assert!(dump.contains(r#"w = ["elided": "2000 bytes, 0.5 to 0.5, mean 0.5"]"#), "{dump}");
    assert!(Model::parse(&dump).err().unwrap().what.contains("left out"));
}

#[test]
fn errors_say_where_and_what_was_expected() {
    let cases = [
        ("", "line 1, column 1: expected the name of a graph, found the end of the text"),
        ("main (float x", "line 1, column 14: expected `,` or `)` after an input, found the end of the text"),
        ("main (x) -> (y) {}", "line 1, column 10: expected `=>` and the outputs, found `-`"),
        ("main (x) => (x)\n{ y = (x) }", "line 2, column 7: expected an operator, found `(`"),
        ("main (x) => (y) {\n   y = Relu (z)\n}", "line 2, column 14: `z` is not defined before it is read"),
        ("main (x) => (y) {}", "line 1, column 14: `y` is not defined before it is read"),
        ("main (x, x) => () {}", "line 1, column 10: `x` is defined twice"),
        ("main () => () <float[2] w = {1, ?}> {}", "line 1, column 33: expected a number, found `?`"),
        ("main () => () <uint8[1] w = {256}> {}", "line 1, column 30: `256` is no uint8"),
        ("main (float[9] w = {1}) => () {}", "line 1, column 7: a tensor of float[9] takes 36 bytes, but 4 are there"),
        ("main () => () <float[N] w = {1}> {}", "line 1, column 16: data needs a type with fixed lengths"),
        ("main () => () <float[1] w> {}", "line 1, column 25: `w` is declared, but nothing defines it"),
        ("main () => () { = Op <a = []> () }", "line 1, column 23: an empty list needs its type, as in `a: ints = []`"),
        ("main () => () { = Op <a: int = 1.5> () }", "line 1, column 23: the value of `a` is not of type int"),
        ("main () => () { = Op <a = 1, a = 2> () }", "line 1, column 30: attribute `a` is given twice"),
        ("<ir_version: x> main () => () {}", "line 1, column 14: expected a number, found `x`"),
        ("<size: 1> main () => () {}", "line 1, column 2: `size` is no entry of a header"),
        ("# @bits \"00\"\nmain () => () {}", "line 1, column 4: @bits says nothing about what follows"),
        (
            "# @docs \"00\"\nmain () => () {}",
            "line 1, column 4: @docs is no annotation; there are @bits, @device-configuration, \
            @doc, @domain, @metadata, @name, @op, @overload, @quantization, @sparse, @training-info, @type",
        ),
        ("main () => () { = Op <a = \"b> () }", "line 1, column 27: this string does not end"),
        ("main (nothing[2] x) => () {}", "line 1, column 14: expected `,` or `)` after an input, found `[`"),
    ];
    for (text, expected) in cases {
        assert_eq!(Model::parse(text).map(|model| whole(&model)).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!("main ({}float{} x) => () {{}}", "seq(".repeat(20_000), ")".repeat(20_000));
    assert!(Model::parse(&deep).err().unwrap().what.contains("nested more than"));
    let bodies = format!("main () => () {{{}", " = If () <a = b () => () {".repeat(20_000));
    assert!(Model::parse(&bodies).err().unwrap().what.contains("nested more than"));
}

#[test]
fn long_chains_take_linear_time() {
    let mut model = Model::new("main");
    let mut x = model.add_input(model.main, "x");
    for _ in 0..100_000 {
        x = model.append(model.main, "same name", operation("Relu", &[Some(x)], &[]));
    }
    model.add_output(model.main, x);
    let start = std::time::Instant::now();
    assert_round_trip(&model);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
