package org.dbfkeras.demo;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import org.dbfkeras.DbfDelegate;
import org.tensorflow.lite.DataType;
import org.tensorflow.lite.Interpreter;
import org.tensorflow.lite.Tensor;

/** A session in TensorFlow Lite with the DBF ops loaded. */
final class TfliteSession implements Session {
  private final DbfDelegate delegate = new DbfDelegate();
  private final Interpreter interpreter;
  private final ByteBuffer[] inputs;
  private final Map<Integer, Object> outputs = new HashMap<>();

  TfliteSession(ByteBuffer model, int threads) {
    Interpreter opened = null;
    boolean made = false;
    try {
      opened =
          new Interpreter(
              model, new Interpreter.Options().setNumThreads(threads).addDelegate(delegate));
      interpreter = opened;
      interpreter.allocateTensors();
      inputs = new ByteBuffer[interpreter.getInputTensorCount()];
      for (int i = 0; i < inputs.length; ++i) {
        inputs[i] = buffer(interpreter.getInputTensor(i));
      }
      for (int i = 0; i < interpreter.getOutputTensorCount(); ++i) {
        outputs.put(i, buffer(interpreter.getOutputTensor(i)));
      }
      made = true;
    } finally {
      if (!made) {
        if (opened != null) {
          opened.close();
        }
        delegate.close();
      }
    }
  }

  private static ByteBuffer buffer(Tensor tensor) {
    DataType type = tensor.dataType();
    if (type != DataType.FLOAT32 && type != DataType.INT8 && type != DataType.UINT8) {
      throw new IllegalArgumentException(
          "The model's tensor " + tensor.name() + " is of type " + type
              + "; this app runs models with inputs and outputs of float32, int8 or uint8.");
    }
    return ByteBuffer.allocateDirect(tensor.numBytes()).order(ByteOrder.nativeOrder());
  }

  @Override
  public int[] inputShape() {
    return interpreter.getInputTensor(0).shape();
  }

  @Override
  public void setInput(float[] values) {
    Tensor tensor = interpreter.getInputTensor(0);
    if (values.length != tensor.numElements()) {
      throw new IllegalArgumentException(
          "The model takes " + tensor.numElements() + " numbers; " + values.length + " were given.");
    }
    ByteBuffer buffer = inputs[0];
    buffer.rewind();
    Tensor.QuantizationParams scheme = tensor.quantizationParams();
    int low = tensor.dataType() == DataType.INT8 ? -128 : 0;
    for (float value : values) {
      if (tensor.dataType() == DataType.FLOAT32) {
        buffer.putFloat(value);
      } else {
        float scaled = scheme.getScale() == 0 ? value : value / scheme.getScale();
        long rounded = Math.round(Math.rint(scaled)) + scheme.getZeroPoint();
        buffer.put((byte) Math.max(low, Math.min(low + 255, rounded)));
      }
    }
  }

  @Override
  public void setRandomInputs(long seed) {
    Random random = new Random(seed);
    for (int i = 0; i < inputs.length; ++i) {
      inputs[i].rewind();
      while (inputs[i].hasRemaining()) {
        if (interpreter.getInputTensor(i).dataType() == DataType.FLOAT32) {
          inputs[i].putFloat(random.nextInt(256));
        } else {
          inputs[i].put((byte) random.nextInt(256));
        }
      }
    }
  }

  @Override
  public void run() {
    for (ByteBuffer input : inputs) {
      input.rewind();
    }
    for (Object output : outputs.values()) {
      ((ByteBuffer) output).rewind();
    }
    interpreter.runForMultipleInputsOutputs(inputs, outputs);
  }

  @Override
  public float[] output() {
    Tensor tensor = interpreter.getOutputTensor(0);
    Tensor.QuantizationParams scheme = tensor.quantizationParams();
    ByteBuffer buffer = (ByteBuffer) outputs.get(0);
    buffer.rewind();
    float[] values = new float[tensor.numElements()];
    for (int i = 0; i < values.length; ++i) {
      if (tensor.dataType() == DataType.FLOAT32) {
        values[i] = buffer.getFloat();
      } else {
        int stored = tensor.dataType() == DataType.INT8 ? buffer.get() : buffer.get() & 0xff;
        values[i] =
            scheme.getScale() == 0 ? stored : (stored - scheme.getZeroPoint()) * scheme.getScale();
      }
    }
    return values;
  }

  @Override
  public void close() {
    interpreter.close();
    delegate.close();
  }
}
