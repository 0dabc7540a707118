plugins {
    id("com.android.application") version "8.7.3"
}

android {
    namespace = "org.dbfkeras.demo"
    compileSdk = 34

    defaultConfig {
        minSdk = 26
        targetSdk = 34
        versionCode = 1
        versionName = "0.1.0"
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
        externalNativeBuild {
            cmake {
                targets += "dbf_op"
            }
        }
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
    externalNativeBuild {
        cmake {
            path = file("src/main/cpp/CMakeLists.txt")
        }
    }
    sourceSets["main"].assets.srcDir("build/assets") // of bundle.py
    sourceSets["test"].java.setSrcDirs(emptyList<String>()) // test.sh runs them
    androidResources {
        noCompress += listOf("tflite", "pixels", "json")
    }
}

dependencies {
    implementation("org.tensorflow:tensorflow-lite:2.16.1")
}
