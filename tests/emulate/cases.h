// Cases for the tests of the emulator: each case launches kernels, and prints its result.
#pragma once

#include "launch.h"

#include <cstdio>
#include <functional>
#include <map>
#include <string>

constexpr unsigned all = 0xffffffffu;

// The cases of one file add themselves to this table.
std::map<std::string, std::function<void()>>& cases();

struct Case {
  Case(const char* name, std::function<void()> run) { cases()[name] = run; }
};

template <class T>
void print(const T* values, int number) {
  for (int i = 0; i < number; ++i) std::printf("%lld ", (long long)values[i]);
  std::printf("\n");
}
