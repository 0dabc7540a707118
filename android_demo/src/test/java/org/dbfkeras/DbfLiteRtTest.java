package org.dbfkeras;

import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import org.junit.Test;

/** Without LiteRT 2, whose library for Android is in no repository that tests may ask. */
public class DbfLiteRtTest {
  @Test
  public void registersWithTheLiteRtThatIsLoaded() {
    Exception error = assertThrows(IllegalStateException.class, DbfLiteRt::register);
    assertTrue(error.getMessage(), error.getMessage().contains("has loaded no LiteRT"));
    System.loadLibrary("LiteRt"); // One that test.sh makes up; only the names of its functions are LiteRT's.
    DbfLiteRt.register();
    DbfLiteRt.register();
  }
}
