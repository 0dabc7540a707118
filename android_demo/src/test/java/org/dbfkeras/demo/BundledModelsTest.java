package org.dbfkeras.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.NoSuchFileException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.Test;

public class BundledModelsTest {
  private static final String JSON =
      "{\"models\": [{\"file\": \"m_onthefly.tflite\", \"bytes\": 3, \"model\": \"m\", \"mode\": \"onthefly\","
          + " \"type\": \"float32\", \"classes\": [\"cat\", \"dog\"], \"pixels\": \"m.pixels\","
          + " \"shape\": [1, 2, 1], \"expected\": [[0.25, 0.75]], \"tolerance\": 0.5}]}";

  private static BundledModels.Assets assets(String json, byte... pixels) {
    Map<String, byte[]> files = new HashMap<>();
    files.put("models.json", json.getBytes(StandardCharsets.UTF_8));
    files.put("m.pixels", pixels);
    return new BundledModels.Assets() {
      @Override
      public byte[] read(String name) throws IOException {
        if (!files.containsKey(name)) {
          throw new NoSuchFileException(name);
        }
        return files.get(name);
      }

      @Override
      public ByteBuffer map(String name) throws IOException {
        return ByteBuffer.wrap(name.getBytes(StandardCharsets.UTF_8));
      }
    };
  }

  @Test
  public void readsTheList() throws IOException {
    List<Model> models = BundledModels.list(assets(JSON, (byte) 7, (byte) 200));
    assertEquals(1, models.size());
    Model model = models.get(0);
    assertEquals("m_onthefly", model.name);
    assertEquals("m", model.zooModel);
    assertArrayEquals(new float[] {7, 200}, model.examples.images[0], 0);
    assertArrayEquals(new float[] {0.25f, 0.75f}, model.examples.expected[0], 0);
    assertEquals(0.5, model.examples.tolerance, 0);
    assertEquals('m', model.source.open().get(0));
  }

  @Test
  public void damageIsAnError() {
    for (String json : new String[] {"", "{}", JSON.replace("[1, 2, 1]", "[1]")}) {
      assertThrows(IOException.class, () -> BundledModels.list(assets(json, (byte) 7, (byte) 200)));
    }
    IOException error = assertThrows(IOException.class, () -> BundledModels.list(assets(JSON, (byte) 7)));
    assertTrue(error.getMessage(), error.getMessage().contains("1 bytes for 1 images of 2"));
  }
}
