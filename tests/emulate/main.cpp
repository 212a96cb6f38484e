// Runs the case that its argument names. Status: 0 with the result on the output, or 3 with the error there.
#include "cases.h"

#include <stdexcept>

std::map<std::string, std::function<void()>>& cases() {
  static std::map<std::string, std::function<void()>> table;
  return table;
}

int main(int, char** arguments) {
  try {
    cases().at(arguments[1])();
  } catch (const std::runtime_error& error) {
    std::printf("%s\n", error.what());
    return 3;
  }
}
