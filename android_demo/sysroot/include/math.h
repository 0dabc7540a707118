// What the op takes of bionic's math.h, and its like.
#pragma once

#define INFINITY __builtin_inff()
#define isfinite(x) __builtin_isfinite(x)

double ceil(double);
double fabs(double);
double floor(double);
double frexp(double, int*);
double ldexp(double, int);
double round(double);
long lrint(double);
float ceilf(float);
float fabsf(float);
float floorf(float);
float fmaxf(float, float);
float fminf(float, float);
float ldexpf(float, int);
float roundf(float);
long lrintf(float);
