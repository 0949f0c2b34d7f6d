"""A saved model in forms that other libraries load, without this one: merged, stock peft, ONNX; and on the hub."""
