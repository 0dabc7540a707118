package org.dbfkeras.demo;

import android.app.Activity;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.view.View;
import android.widget.RadioGroup;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/** The main screen: a tab to benchmark models and a tab to try one. */
public final class MainActivity extends Activity {
  static final int OPEN_MODEL = 1;
  static final int PICK_IMAGE = 2;
  private static final String TAB = "tab";

  /** What loads models; tests without a TFLite runtime put another here. */
  static Session.Factory factory = TfliteSession::new;

  private BenchmarkPane benchmark;
  private DemoPane demo;

  @Override
  protected void onCreate(Bundle state) {
    super.onCreate(state);
    setContentView(R.layout.main);
    ModelStore store = new ModelStore(this);
    List<Model> models = new ArrayList<>();
    String problem = null;
    try {
      models = store.list();
    } catch (IOException error) {
      problem = error.getMessage();
    }
    benchmark = new BenchmarkPane(this, store, models, problem, state);
    demo = new DemoPane(this, models, state);
    RadioGroup tabs = findViewById(R.id.tabs);
    tabs.setOnCheckedChangeListener((group, tab) -> show(tab));
    tabs.check(state == null ? R.id.benchmark_tab : state.getInt(TAB));
  }

  private void show(int tab) {
    boolean isDemo = tab == R.id.demo_tab;
    findViewById(R.id.benchmark_pane).setVisibility(isDemo ? View.GONE : View.VISIBLE);
    findViewById(R.id.demo_pane).setVisibility(isDemo ? View.VISIBLE : View.GONE);
  }

  @Override
  protected void onResume() {
    super.onResume();
    benchmark.resume();
  }

  @Override
  protected void onPause() {
    benchmark.pause();
    super.onPause();
  }

  @Override
  protected void onDestroy() {
    demo.close();
    super.onDestroy();
  }

  @Override
  protected void onSaveInstanceState(Bundle state) {
    super.onSaveInstanceState(state);
    RadioGroup tabs = findViewById(R.id.tabs);
    state.putInt(TAB, tabs.getCheckedRadioButtonId());
    benchmark.save(state);
    demo.save(state);
  }

  @Override
  protected void onActivityResult(int request, int code, Intent data) {
    super.onActivityResult(request, code, data);
    Uri uri = code == RESULT_OK && data != null ? data.getData() : null;
    if (uri == null) {
      return;
    }
    if (request == OPEN_MODEL) {
      benchmark.add(uri);
    } else if (request == PICK_IMAGE) {
      demo.pick(uri);
    }
  }
}
