// The app for Android Studio, or for Gradle on the command line. Not built in CI, which has neither the Android SDK nor
// the NDK: build.sh builds the same sources there.

pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "dbf-benchmark"
