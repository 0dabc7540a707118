// The native methods of org.dbfkeras.DbfDelegate and DbfLiteRt.

#include <jni.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "dbf_op.h"
#include "tflite/tflite_abi.h"

TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t num_options,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);

// The library reports errors to a function without user data, so the message passes through here.
static pthread_mutex_t error_mutex = PTHREAD_MUTEX_INITIALIZER;
static const char* error = NULL;  // a string literal of the library

static void NoteError(const char* message) { error = message; }

JNIEXPORT jlong JNICALL Java_org_dbfkeras_DbfDelegate_create(JNIEnv* env, jclass class,
                                                             jstring isa) {
  (void)class;
  const char* value = NULL;
  if (isa != NULL) {
    value = (*env)->GetStringUTFChars(env, isa, NULL);
    if (value == NULL) return 0;  // OutOfMemoryError is pending
  }
  char* keys[] = {"isa"};
  char* values[] = {(char*)value};
  pthread_mutex_lock(&error_mutex);
  error = "the DBF delegate could not be created";
  TfLiteDelegate* delegate =
      tflite_plugin_create_delegate(keys, values, value != NULL ? 1 : 0, NoteError);
  const char* message = error;
  pthread_mutex_unlock(&error_mutex);
  if (value != NULL) (*env)->ReleaseStringUTFChars(env, isa, value);
  if (delegate == NULL) {
    jclass type = (*env)->FindClass(env, "java/lang/IllegalArgumentException");
    if (type != NULL) (*env)->ThrowNew(env, type, message);
  }
  return (jlong)(intptr_t)delegate;
}

JNIEXPORT void JNICALL Java_org_dbfkeras_DbfDelegate_destroy(JNIEnv* env, jclass class,
                                                             jlong handle) {
  (void)env;
  (void)class;
  tflite_plugin_destroy_delegate((TfLiteDelegate*)(intptr_t)handle);
}

JNIEXPORT jlongArray JNICALL Java_org_dbfkeras_DbfDelegate_memory(JNIEnv* env, jclass class) {
  (void)class;
  size_t packed, scratch;
  dbf_memory(&packed, &scratch);
  const jlong sizes[] = {(jlong)packed, (jlong)scratch};
  jlongArray array = (*env)->NewLongArray(env, 2);
  if (array != NULL) (*env)->SetLongArrayRegion(env, array, 0, 2, sizes);
  return array;
}

JNIEXPORT jstring JNICALL Java_org_dbfkeras_DbfLiteRt_registerWithAll(JNIEnv* env, jclass class) {
  (void)class;
  const char* message = dbf_register_litert(NULL);
  return message == NULL ? NULL : (*env)->NewStringUTF(env, message);
}
