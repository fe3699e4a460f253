/* Ends well without a word. */
int main(void)
{
    return 0;
}
